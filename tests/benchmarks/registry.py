"""Which benchmarks there are: the files of `suite/`, each with one function under `@benchmark`. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pkgutil import iter_modules

from tests.benchmarks import suite
from tests.benchmarks.result import Benchmark, Number, Options, Result

Run = Callable[[Options], list[Result]]
ALL = ("against", "device", "threads")

_REGISTERED: dict[str, Benchmark] = {}


def benchmark(
    compares: str,
    settings: Mapping[str, Number],
    *,
    least: Mapping[str, Number] | None = None,
    obeys: tuple[str, ...] = ALL,
    rounds: int = 5,
) -> Callable[[Run], Run]:
    """Register a function under the name of its file. The arguments are the fields of `Benchmark`."""

    def register(run: Run) -> Run:
        name = run.__module__.rpartition(".")[2]
        _REGISTERED[name] = Benchmark(name, compares, run, settings, least or {}, obeys, rounds)
        return run

    return register


def names() -> list[str]:
    """Known without importing any of them: they import torch."""
    return sorted(module.name for module in iter_modules(suite.__path__))


def benchmark_named(name: str) -> Benchmark:
    """Imports its file, and torch with it. Only for `names()`."""
    import_module(f"{suite.__name__}.{name}")
    return _REGISTERED[name]
