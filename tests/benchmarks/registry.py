"""Which benchmarks there are. A file in this folder has `benchmarks() -> dict[name, Benchmark]`; it is imported when asked."""

from __future__ import annotations

from importlib import import_module

from tests.benchmarks.result import Benchmark

FILES = {  # name of the benchmark -> its file
    "step": "step",
    "train": "training",
    "memory": "memory",
    "augment": "augment",
    "probe": "probe",
    "knn": "knn",
    "sweep": "sweep",
    "startup": "startup",
    "tracking": "tracking",
    "table": "table",
    "queue": "queue",
}


def benchmark(name: str) -> Benchmark:
    """Imports torch. Only for names of `FILES`."""
    found: dict[str, Benchmark] = import_module(f"tests.benchmarks.{FILES[name]}").benchmarks()
    return found[name]
