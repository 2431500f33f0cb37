"""The readouts of the code, made known to the store: their records stand at `@readout` in `moco/evaluation`."""

from __future__ import annotations

from dataclasses import asdict

from experiments.store import metrics
from experiments.store.metrics import Metric
from moco.evaluation.protocols import PROTOCOLS, protocol, protocols


def registered() -> list[Metric]:
    """Of the files that this process has imported."""
    return [Metric(**asdict(one), protocol=name) for name, found in PROTOCOLS.items() for one in found.metrics]


def learn_registered() -> None:
    metrics.learn(registered())


def relearn_all() -> None:
    """Imports torch. The records of the code in place of the copy in the store."""
    what = {name: one.what for name, one in protocols().items()}
    metrics.relearn(registered(), what)


def readouts_of(name: str) -> list[Metric]:
    """The readouts of a protocol, its headline first. Imports torch only for one that the store does not know.

    Errors: `ValueError` for a name that does not exist, with those that do.
    """
    if not metrics.readouts_of(name):
        protocol(name)
        learn_registered()
    return metrics.readouts_of(name)
