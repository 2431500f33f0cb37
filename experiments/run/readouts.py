"""Makes the readouts of the code, which are defined at `@readout` in `moco/evaluation`, known to the store."""

from __future__ import annotations

from dataclasses import asdict

from experiments.store import metrics
from experiments.store.metrics import Metric
from moco.evaluation.protocols import PROTOCOLS, protocol, protocols


def registered() -> list[Metric]:
    """The readouts in files that this process has imported."""
    return [Metric(**asdict(one), protocol=name) for name, found in PROTOCOLS.items() for one in found.metrics]


def learn_registered() -> None:
    """Add them to the store's list."""
    metrics.learn(registered())


def relearn_all() -> None:
    """Replace the store's list by all readouts of the code. Imports torch."""
    what = {name: one.what for name, one in protocols().items()}
    metrics.relearn(registered(), what)


def readouts_of(name: str) -> list[Metric]:
    """The readouts of a protocol, the main one first. Imports torch only for a protocol that the store does not know.

    Raises ValueError for an unknown name, with the known ones.
    """
    if not metrics.readouts_of(name):
        protocol(name)
        learn_registered()
    return metrics.readouts_of(name)
