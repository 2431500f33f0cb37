"""`python -m experiments evaluate`: the readouts of a finished run, or of a file of weights, ours or another tool's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import schema
from moco.config import Config
from moco.identity import from_plain

if TYPE_CHECKING:
    from moco.model import Projector

DEFAULT = ("linear", "knn", "few_label")


def evaluate(path: Path, protocols: Sequence[str], base: Config | None = None) -> dict[str, float | None]:
    """Readouts of the weights at or in `path`; names as in the journal, values in percent. Several processes share the work.

    `base` gives the images and their pixel statistics for a file of another tool; a file of ours has its own. Raises
    ValueError for a path without weights, a file that is not recognised, an unknown protocol.
    """
    from moco.data import load
    from moco.distributed import group
    from moco.evaluation.readouts import curves, features_for, protocol
    from moco.evaluation.unmoved import unmoved
    from moco.trainer import choose_device

    chosen = {name: protocol(name) for name in protocols}
    config, query_of = weights(weights_file(path), base)
    data = load(config.data, say)
    query = query_of(len(data.classes)).to(choose_device(config.train.device))
    with group(config.train.device), unmoved(query):
        features = features_for(list(chosen), query, data, config)
        readouts = [r for run in chosen.values() for r in run(features, config.evaluation, config.train.seed)]
    alone, by_epoch = curves(dict(readouts))
    return alone | (by_epoch[max(by_epoch)] if by_epoch else {})


def say(line: str) -> None:
    print(line, file=sys.stderr)


def weights(file: Path, base: Config | None) -> tuple[Config, Callable[[int], Projector]]:
    """How to evaluate the file, and its network for a number of classes."""
    from moco import checkpoint

    state = checkpoint.load(file)
    if {"config", "encoder", "head"} <= set(state):
        config: Config = from_plain(Config, state["config"])
        return config, partial(_own, state, config)
    return _foreign(file, base)


def _own(state: dict[str, Any], config: Config, classes: int) -> Projector:
    from moco.model import build_query

    query = build_query(config, classes)
    query.encoder.load_state_dict(state["encoder"])
    query.head.load_state_dict(state["head"])
    return query


def _foreign(file: Path, base: Config | None) -> tuple[Config, Callable[[int], Projector]]:
    """The encoder alone: the heads of other tools are not taken over."""
    from moco.exchange.reading import encoder_of, read
    from moco.model import bare

    found = read(file)
    say(f"recognised {found.words}")
    if base is None:
        raise ValueError(
            f"{file}: {found.maker} says nothing about images; add --baseline NAME, whose data it is judged on"
        )
    if found.image_size not in (None, base.data.image_size):
        raise ValueError(
            f"{file}: its positions are for {found.image_size} pixels, data.image_size = {base.data.image_size}; "
            f"add --set data.image_size={found.image_size}"
        )
    encoder = encoder_of(found, file)
    return base, lambda classes: bare(encoder)


def weights_file(path: Path) -> Path:
    """`encoder.pt` of a run directory, or the file itself."""
    file = path / schema.ENCODER if path.is_dir() else path
    if not file.exists():
        state = "the run is not done" if path.is_dir() else "no such file"
        raise ValueError(f"{file}: not there, {state}")
    return file
