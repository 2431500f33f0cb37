"""Protocols looking at a network: its features are extracted once, and all that were asked for share them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import schema
from experiments.evaluation.weights import say, weights, weights_file
from moco.config import Config, Data

if TYPE_CHECKING:
    from moco.data.images import ImageData

DEFAULT = ("linear", "knn", "few_label")


@dataclass(frozen=True)
class Judgement:
    """Names as in the journal, values in percent where they say top1, map or recall; None does not exist.

    `by_epoch` are the curves of readouts that train. `device` as the config names it.
    """

    values: dict[str, float | None]
    by_epoch: dict[int, dict[str, float | None]]
    seconds: float
    device: str = "auto"

    def last(self) -> dict[str, float | None]:
        """With the end of each curve."""
        ends = {name: value for values in self.by_epoch.values() for name, value in values.items()}
        return self.values | ends


def judgements(
    path: Path, protocols: Sequence[str], base: Config | None = None, device: str | None = None
) -> Iterator[tuple[str, Judgement]]:
    """Each protocol's readouts of the weights at or in `path`, one after the other. Several processes share the work.

    `base` gives the images to a file of another tool; to one of ours, other images than its own. Raises ValueError for a
    path without weights, a file that is not recognised, an unknown protocol; BackboneMovedError for a protocol that changed
    the network, before its readouts are given.
    """
    from moco.distributed import group
    from moco.evaluation.readouts import curves, features_for, protocol
    from moco.evaluation.unmoved import unmoved
    from moco.trainer import choose_device

    began = time.monotonic()
    chosen = {name: protocol(name) for name in protocols}
    config, query_of = weights(weights_file(path), base)
    if device is not None:
        config = replace(config, train=replace(config.train, device=device))
    data = images(config.data)
    query = query_of(len(data.classes)).to(choose_device(config.train.device))
    with group(config.train.device):
        features = features_for(list(chosen), query, data, config)
        for name, run in chosen.items():
            with unmoved(query):
                alone, by_epoch = curves(dict(run(features, config.evaluation, config.train.seed)))
            yield name, Judgement(alone, by_epoch, time.monotonic() - began, config.train.device)
            began = time.monotonic()


@lru_cache(maxsize=1)
def images(data: Data) -> ImageData:
    """Loaded once for the runs of a sweep that one process judges."""
    from moco.data import load

    return load(data, say)


def headlines(protocols: Sequence[str]) -> list[str]:
    """The readouts that a table knows, in the order of the protocols."""
    from moco.evaluation.protocols import PROTOCOLS

    return [name for one in protocols for name in PROTOCOLS[one].headlines if name in schema.READOUTS]
