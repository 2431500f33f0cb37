"""`@readout` and the readouts it finds: every decorated generator of a file in `moco/evaluation`. Itself imports no torch.

    @readout("nearest_mean", Metric("nearest_mean_top1", title="nearest mean", meaning="percent, ..."), what="...")
    def nearest_mean(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
        yield "test/nearest_mean_top1", ...

A file with that is all that `evaluate`, tables, MLflow and NAMES.md need. The names that they know without importing torch are
those of `experiments/store/readouts.json`; `python -m experiments names --write` brings it up to date.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Literal

import moco.evaluation

if TYPE_CHECKING:
    from moco.config import Evaluation
    from moco.evaluation.features import Features

Readout = tuple[str, float | None]


@dataclass(frozen=True)
class Metric:
    """A number of the test split that tables know: `retrieval_map` is yielded as `test/retrieval_map`.

    `when`: training ends with it (at_end), if the config asks for it (on_request), `evaluate` adds it (added), or the same and
    only a table that compares it shows it (detail). `curve`: what `validation/<key>` means if it is measured on the way.
    """

    key: str
    title: str  # in tables
    meaning: str  # in NAMES.md
    unit: str = "%"
    higher_is_better: bool = True
    when: Literal["at_end", "on_request", "added", "detail"] = "added"
    curve: str = ""


Function = Callable[["Features", "Evaluation", int], Iterator[Readout]]


def never(evaluation: Evaluation) -> bool:
    return False


def always(evaluation: Evaluation) -> bool:
    return True


@dataclass(frozen=True)
class Protocol:
    """A way to evaluate a representation. Called, it yields (key, value): `test/linear_top1` and whatever belongs to it.

    `metrics` are its readouts of the test split that tables know: a run with the first one has been evaluated by it.
    `reads_features`: of the three splits; a protocol with images of its own needs none, and none are then extracted.
    `reads_crops`: training images cropped anew each epoch. `at_end`: does training with this config end with it?
    """

    function: Function
    metrics: tuple[Metric, ...]
    what: str
    reads_features: bool = True
    reads_crops: bool = False
    at_end: Callable[[Evaluation], bool] = never

    @property
    def headlines(self) -> tuple[str, ...]:
        return tuple(metric.key for metric in self.metrics)

    def __call__(self, features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
        return self.function(features, evaluation, seed)


PROTOCOLS: dict[str, Protocol] = {}  # those of the files that were imported so far


def readout(
    name: str,
    *metrics: Metric,
    what: str,
    reads_features: bool = True,
    reads_crops: bool = False,
    at_end: Callable[[Evaluation], bool] = never,
) -> Callable[[Function], Function]:
    """Register a generator as the protocol `name`; the arguments are the fields of `Protocol`."""

    def register(function: Function) -> Function:
        PROTOCOLS[name] = Protocol(function, metrics, what, reads_features, reads_crops, at_end)
        return function

    return register


@cache
def _import_all() -> None:
    for module in sorted(module.name for module in iter_modules(moco.evaluation.__path__)):
        import_module(f"{moco.evaluation.__name__}.{module}")


def protocols() -> dict[str, Protocol]:
    """All of them; imports their files, and torch with them."""
    _import_all()
    return PROTOCOLS


def protocol(name: str) -> Protocol:
    """Errors: `ValueError` for a name that does not exist, with those that do."""
    if name not in PROTOCOLS and name not in protocols():
        close = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.5)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"protocol {name}: there is no such protocol, the choices are {', '.join(PROTOCOLS)}{meant}")
    return PROTOCOLS[name]
