"""Files of other tools: whose they are is recognised by their keys, and the encoder is read, all of it or none.

Nothing in a file is executed (`weights_only`). Known: this suite; the authors' v1 and v2 (facebookresearch/moco) and v3
(facebookresearch/moco-v3); lightly and solo-learn; plain state dicts of torchvision's and timm's networks, also inside
{"state_dict": ...} or {"model": ...}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from moco import checkpoint
from moco.config import ResNet, ViT
from moco.encoders import Encoder, build_encoder
from moco.exchange.architecture import architecture_of, image_size_of
from moco.exchange.names import State, from_numbered, from_timm, listed

CONTAINERS = ("state_dict", "model", "teacher", "network")
CLASSIFIERS = ("fc.", "head.", "heads.", "classifier.")

# prefix of the encoder that is evaluated -> the file's maker, the first that fits; the key encoder is never it
MAKERS = {
    "module.encoder_q.": "the authors' MoCo v1 or v2",
    "module.base_encoder.": "the authors' MoCo v3",
    "encoder_q.": "the authors' MoCo v1 or v2, without DistributedDataParallel",
    "base_encoder.": "the authors' MoCo v3, without DistributedDataParallel",
    "backbone.backbone.": "lightly or solo-learn",
    "backbone.": "lightly or solo-learn",
    "encoder.backbone.": "this suite",
    "module.": "a plain network in DistributedDataParallel",
    "": "a plain network",
}


@dataclass(frozen=True)
class Foreign:
    """What was recognised. `left` are the keys that are no part of the encoder: heads, queues, key encoders."""

    maker: str
    config: ResNet | ViT
    image_size: int | None
    state: State  # torchvision's names
    left: tuple[str, ...]

    @property
    def words(self) -> str:
        size = f", {self.image_size} pixels" if self.image_size else ""
        return (
            f"{self.maker}: {described(self.config)}{size}, {len(self.state)} tensors; {len(self.left)} others left out"
        )


def described(config: ResNet | ViT) -> str:
    if isinstance(config, ViT):
        return f"ViT of width {config.width}, depth {config.depth}, {config.heads} heads, patch {config.patch}"
    kind = (
        f", {config.groups} groups of {config.width_per_group}"
        if (config.groups, config.width_per_group) != (1, 64)
        else ""
    )
    return f"ResNet-{config.depth} with the {config.stem} stem{kind}"


def read(path: Path) -> Foreign:
    """Raises ValueError, one line with the keys, for a file that is damaged, of another kind, or lacks a part."""
    tensors = tensors_of(checkpoint.load(path), path)
    prefix = next(p for p in MAKERS if any(name.startswith(p) for name in tensors))
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    body = {name: tensor for name, tensor in inside.items() if not name.startswith(CLASSIFIERS)}
    try:
        state = in_the_middle(body)
        config = architecture_of(state)
    except ValueError as error:
        raise ValueError(f"{path}: {MAKERS[prefix]}, but {error}") from None
    left = tuple(name for name in tensors if name.removeprefix(prefix) not in body or not name.startswith(prefix))
    return Foreign(MAKERS[prefix], config, image_size_of(config, state), state, left)


def tensors_of(loaded: Mapping[str, object], path: Path) -> State:
    """The state dict in a file, wherever it keeps it. Raises ValueError if there is none."""
    for container in (*CONTAINERS, None):
        inner = loaded if container is None else loaded.get(container)
        if isinstance(inner, Mapping):
            tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
            if tensors:
                return tensors
    raise ValueError(f"{path}: holds no weights, only {listed([str(key) for key in loaded])}")


def in_the_middle(state: State) -> State:
    """Under torchvision's names, whichever of the known ones they have."""
    if "patch_embed.proj.weight" in state:
        return from_timm(state)
    if any(name.partition(".")[0].isdigit() for name in state):
        return from_numbered(state)
    return state


def encoder_of(foreign: Foreign, path: Path) -> Encoder:
    """Built and filled, to the last tensor. Raises ValueError with the keys that are missing, too many or of another shape."""
    encoder = build_encoder(foreign.config, foreign.image_size or 224)
    if found := misfits(encoder.backbone.state_dict(), foreign.state):
        raise ValueError(f"{path}: {foreign.maker}, {described(foreign.config)}, but tensors are {found}")
    encoder.backbone.load_state_dict(foreign.state)
    return encoder


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """All of it or nothing. Raises ValueError, one line with the keys, for tensors that do not fit the config beside them."""
    if found := misfits(module.state_dict(), state):
        raise ValueError(f"{path}: tensors do not fit its config: {found}")
    module.load_state_dict(state)


def misfits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """What keeps one state dict from filling the other, with the keys; None if nothing does."""
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [name for name in found if name not in wanted],
        "of another shape": [n for n, t in found.items() if n in wanted and t.shape != wanted[n].shape],
    }
    return "; ".join(f"{len(keys)} {what} ({listed(keys)})" for what, keys in problems.items() if keys) or None
