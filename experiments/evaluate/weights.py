"""The network in a file of weights: one of this suite, with its config, or another tool's, recognised by its keys.

    weights_file    the file that a path means
    weights         its config, and a function that builds the network
    architecture    its kind of encoder and image size

torch is imported when a file is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.store import schema
from moco.config import Classifier, Config, ResNet, ViT
from moco.config.plain import from_plain

if TYPE_CHECKING:
    from moco.model import Projector

OURS = {"config", "encoder", "head"}  # in a file of this suite


def say(line: str) -> None:
    print(line, file=sys.stderr)


def weights_file(path: Path) -> Path:
    """`encoder.pt` of a run directory, or the file itself."""
    file = path / schema.ENCODER if path.is_dir() else path
    if not file.exists():
        state = "the run is not done" if path.is_dir() else "no such file"
        raise ValueError(f"{file}: not there, {state}")
    return file


def weights(file: Path, base: Config | None) -> tuple[Config, Callable[[int], Projector]]:
    """The config to evaluate the file with, and a function from the number of classes to its network.

    base: the config whose images are used instead of the file's own; a file of another tool has none, so it needs one.
    Raises ValueError for weights that do not fit.
    """
    from moco import checkpoint

    state = checkpoint.load(file)
    if set(state) >= OURS:
        return _ours(state, file, base)
    return _foreign(file, base)


def architecture(file: Path, config: Config) -> tuple[ResNet | ViT, int]:
    """The kind of encoder in the file, and the side of its images in pixels.

    config: as `weights` returns it; for a file of another tool only its image size is used.
    """
    from moco import checkpoint
    from moco.model import part_of_batch
    from moco.weights.read import read

    if set(checkpoint.load(file)) >= OURS:
        return part_of_batch(config), config.data.image_size
    found = read(file)
    return found.config, found.image_size or config.data.image_size


def _ours(state: dict[str, Any], file: Path, base: Config | None) -> tuple[Config, Callable[[int], Projector]]:
    own: Config = from_plain(Config, state["config"])
    if base is None:
        return own, partial(_built, state, own, file)
    _check_side(file, own.data.image_size if isinstance(own.encoder, ViT) else None, base)
    config = replace(own, data=base.data, evaluation=base.evaluation)
    if isinstance(own.head, Classifier):  # its classes are not those of these images
        return config, partial(_built_bare, state, own, file)
    return config, partial(_built, state, config, file)


def _built(state: dict[str, Any], config: Config, file: Path, classes: int) -> Projector:
    from moco.model import build_query
    from moco.weights.read import fill

    if isinstance(config.head, Classifier):
        _check_classes(state["head"], file, classes)
    query = build_query(config, classes)
    fill(query.encoder, state["encoder"], file)
    fill(query.head, state["head"], file)
    return query


def _built_bare(state: dict[str, Any], own: Config, file: Path, classes: int) -> Projector:
    from moco.encoders import build_encoder
    from moco.model import bare, part_of_batch
    from moco.weights.read import fill

    encoder = build_encoder(part_of_batch(own), own.data.image_size)
    fill(encoder, state["encoder"], file)
    return bare(encoder)


def _check_classes(head: dict[str, Any], file: Path, classes: int) -> None:
    """Raises ValueError for a classifier whose classes are not those of the images."""
    known = len(next(reversed(head.values())))  # the last entry is the bias, one value per class
    if known != classes:
        raise ValueError(
            f"{file}: its classifier knows {known} classes, the images have {classes}: not the data it was trained on; "
            "add --baseline NAME to judge its encoder on that baseline's images"
        )


def _foreign(file: Path, base: Config | None) -> tuple[Config, Callable[[int], Projector]]:
    """The encoder alone: the heads of other tools are not taken over."""
    from moco.model import bare
    from moco.weights.read import encoder_of, read

    found = read(file)
    say(f"recognised {found.words}")
    if base is None:
        raise ValueError(
            f"{file}: {found.maker} says nothing about images; add --baseline NAME, whose data it is judged on"
        )
    _check_side(file, found.image_size, base)
    encoder = encoder_of(found, file)
    return base, lambda classes: bare(encoder)


def _check_side(file: Path, side: int | None, base: Config) -> None:
    if side not in (None, base.data.image_size):
        raise ValueError(
            f"{file}: its positions are for {side} pixels, data.image_size = {base.data.image_size}; "
            f"add --set data.image_size={side}"
        )
