"""The network in a file of weights: one of this suite, with its config, or another tool's, recognised by its keys.

    weights_file    the file that a path means
    Reading         what the user says about a file: where its network is, and what its tensors do not tell
    weights         its config, and a function that builds the network
    architecture    its kind of encoder and image size

torch is imported when a file is read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.plan.overrides import no_such_field
from experiments.store import schema
from moco.config import Classifier, Config, Head, ResNet, ViT
from moco.config.kinds import type_hints
from moco.config.plain import from_plain
from moco.config.text import parse

if TYPE_CHECKING:
    from moco.encoders import Encoder
    from moco.model import Projector
    from moco.weights.read import Foreign

OURS = {"config", "encoder", "head"}  # in a file of this suite
BRANCHES = ("query", "key", "student", "teacher")  # of a file of another tool: which of its networks
# What --baseline and --set say that a readout of a file depends on.
OWN_SETTINGS = ("data.", "evaluation.")
FOREIGN_SETTINGS = (*OWN_SETTINGS, "augment.", "train.seed", "train.device")


def say(line: str) -> None:
    print(line, file=sys.stderr)


def weights_file(path: Path) -> Path:
    """`encoder.pt` of a run directory, or the file itself."""
    file = path / schema.ENCODER if path.is_dir() else path
    if not file.exists():
        if path.is_dir() and not (path / schema.CONFIG).exists():
            raise ValueError(f"{path}: a folder, but no run directory: it has no {schema.CONFIG}; name a run or a file")
        state = "the run is not done" if path.is_dir() else "no such file"
        raise ValueError(f"{file}: not there, {state}")
    return file


@dataclass(frozen=True)
class Reading:
    """What the user says about a file. `encoder`: fields of its network. `settings`: the other fields that --set names.

    `prefix`, `branch`: which of several networks. `interpolate`: bring a transformer's positions to the size of the images.
    """

    encoder: tuple[tuple[str, object], ...] = ()
    settings: tuple[str, ...] = ()
    prefix: str | None = None
    branch: str | None = None
    interpolate: bool = False

    @staticmethod
    def of(given: argparse.Namespace, assignments: Sequence[str]) -> tuple[Reading, list[str]]:
        """How to read the file, and the assignments of `--set` that are about other things. Raises ValueError."""
        if given.branch is not None and given.branch not in BRANCHES:
            raise ValueError(f"--branch {given.branch}: must be one of {', '.join(BRANCHES)}")
        names = [assignment.partition("=")[0].strip() for assignment in assignments]
        own = [name == "encoder" or name.startswith("encoder.") for name in names]
        encoder_fields = [_encoder_field(one) for one, is_own in zip(assignments, own, strict=True) if is_own]
        others = [one for one, is_own in zip(assignments, own, strict=True) if not is_own]
        settings = tuple(name for name, is_own in zip(names, own, strict=True) if not is_own)
        return Reading(tuple(encoder_fields), settings, given.prefix, given.branch, given.interpolate_positions), others

    def only_for_files(self, what: str) -> None:
        """Raises ValueError if anything is said: `what`, a run for instance, carries its own config."""
        flags = {"--prefix": self.prefix, "--branch": self.branch}
        for flag, value in flags.items():
            if value is not None:
                raise ValueError(f"{flag} {value}: for a file of weights of another tool; {what} has one network")
        if self.encoder:
            raise ValueError(
                f"--set encoder.{self.encoder[0][0]}: would change nothing; {what} has the encoder of its own config"
            )


NOTHING_SAID = Reading()


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The flags of `Reading`."""
    parser.add_argument(
        "--prefix", metavar="PATH", help="of a file: where in it the network is, such as module.encoder_q"
    )
    parser.add_argument(
        "--branch", metavar="NAME", help=f"of a file: {', '.join(BRANCHES)} (default: as its maker evaluates)"
    )
    parser.add_argument(
        "--interpolate-positions",
        action="store_true",
        help="of a file: resample a transformer's positions for data.image_size",
    )


def _encoder_field(assignment: str) -> tuple[str, object]:
    name, _, text = (part.strip() for part in assignment.partition("="))
    field = name.removeprefix("encoder.")
    known = type_hints(ViT) | type_hints(ResNet)
    if name == "encoder" or field not in known:
        raise ValueError(no_such_field(name, [f"encoder.{one}" for one in known]))
    return field, parse(name, known[field], text)


def weights(
    file: Path, base: Config | None, reading: Reading = NOTHING_SAID
) -> tuple[Config, Callable[[int], Projector]]:
    """The config to evaluate the file with, and a function from the number of classes to its network.

    base: the config whose images are used instead of the file's own; a file of another tool has none, so it needs one.
    Raises ValueError for weights that do not fit, and for something said that would change nothing.
    """
    from moco import checkpoint
    from moco.weights.contents import contents

    found = contents(file)
    if set(found.values) >= OURS:
        reading.only_for_files("a file of this suite")
        _check_settings(file, reading, OWN_SETTINGS)
        return _ours(checkpoint.load(file), file, base, reading)
    return _foreign(file, base, reading)


def architecture(file: Path, config: Config, reading: Reading = NOTHING_SAID) -> tuple[ResNet | ViT, int]:
    """The kind of encoder in the file, and the side of its images in pixels.

    config: as `weights` returns it; for a file of another tool only its image size is used.
    """
    from moco.model import part_of_batch
    from moco.weights.contents import contents

    if set(contents(file).values) >= OURS:
        return part_of_batch(config), config.data.image_size
    found = _read(file, reading)
    return found.config, found.image_size or config.data.image_size


def _read(file: Path, reading: Reading) -> Foreign:
    from moco.weights.read import read

    return read(file, dict(reading.encoder), reading.prefix, reading.branch)


def _check_settings(file: Path, reading: Reading, allowed: tuple[str, ...]) -> None:
    for name in reading.settings:
        if not name.startswith(allowed):
            raise ValueError(
                f"--set {name}: would change nothing, {file} is judged as it is; with --baseline, "
                f"{', '.join(one.rstrip('.') for one in allowed)} count"
            )


def _ours(
    state: dict[str, Any], file: Path, base: Config | None, reading: Reading
) -> tuple[Config, Callable[[int], Projector]]:
    own: Config = from_plain(Config, state["config"])
    if base is None:
        return own, partial(_built, state, own, file)
    config = replace(own, data=base.data, evaluation=base.evaluation)
    if isinstance(own.encoder, ViT) and own.data.image_size != base.data.image_size:
        if not reading.interpolate:
            _check_side(file, own.data.image_size, base)
        state = {**state, "encoder": _at_size(state["encoder"], own.encoder, config)}
        own = replace(own, data=replace(own.data, image_size=base.data.image_size))
    if isinstance(own.head, Classifier):  # its classes are not those of these images
        return config, partial(_built_bare, state, own, file)
    return config, partial(_built, state, config, file)


def _at_size(state: dict[str, Any], encoder: ViT, config: Config) -> dict[str, Any]:
    """With positions for the images of `config`: learned ones resampled, fixed ones as a run of that size has them."""
    from moco.encoders import build_encoder
    from moco.weights.positions import resampled

    name, side = "backbone.encoder.pos_embedding", config.data.image_size
    if encoder.position == "learned":
        if side % encoder.patch:
            raise ValueError(f"data.image_size = {side}: patches of {encoder.patch} pixels do not divide it")
        positions = resampled(state[name], side // encoder.patch, encoder.pool == "cls")
        say(f"assumed: positions resampled for {side} pixels (bicubic, as timm does)")
    else:
        positions = build_encoder(encoder, side).state_dict()[name]
        say(f"assumed: {encoder.position} positions for {side} pixels")
    return {**state, name: positions}


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


def _foreign(file: Path, base: Config | None, reading: Reading) -> tuple[Config, Callable[[int], Projector]]:
    """The encoder alone: the heads of other tools are not taken over. An export of this suite has its own config."""
    from moco.model import bare
    from moco.weights.read import encoder_of

    found = _read(file, reading)
    carried = found.carried
    if base is None and carried is None:
        say(f"recognised {found.words}")
        raise ValueError(
            f"{file}: {found.maker} says nothing about images; add --baseline NAME, whose data it is judged on"
        )
    _check_settings(file, reading, FOREIGN_SETTINGS if carried is None else OWN_SETTINGS)
    if carried is not None:
        images = carried.config if base is None else base
        config = replace(carried.config, data=images.data, evaluation=images.evaluation)
    else:
        assert base is not None
        config = base
    if reading.interpolate:
        found = found.at(config.data.image_size)
    say(f"recognised {found.words}")
    _check_side(file, found.image_size, config)
    encoder = encoder_of(found, file)
    if carried is not None and carried.head is not None:
        return config, partial(_with_head, encoder, carried.head, config, file)
    return _on_features(file, config, reading), lambda classes: bare(encoder)


def _on_features(file: Path, config: Config, reading: Reading) -> Config:
    """Without a projection head, kNN is on the encoder's features, whatever the config says."""
    if config.evaluation.knn_features == "encoder":
        return config
    if "evaluation.knn_features" in reading.settings:
        raise ValueError(
            f"--set evaluation.knn_features={config.evaluation.knn_features}: {file} is read without a "
            "projection head; leave it out"
        )
    say(
        "assumed: kNN on the features of the encoder, where the baseline has it on its projection head's; the file is read "
        "without one"
    )
    return replace(config, evaluation=replace(config.evaluation, knn_features="encoder"))


def _with_head(encoder: Encoder, head: dict[str, Any], config: Config, file: Path, classes: int) -> Projector:
    from moco.encoders import build_head
    from moco.model import Projector
    from moco.weights.read import fill

    built = build_head(config.part(Head), encoder.feature_dim)
    fill(built, head, file)
    return Projector(encoder, built)


def _check_side(file: Path, side: int | None, base: Config) -> None:
    if side not in (None, base.data.image_size):
        raise ValueError(
            f"{file}: its positions are for {side} pixels, data.image_size = {base.data.image_size}; "
            f"add --set data.image_size={side}, or --interpolate-positions to resample them"
        )
