"""Files of other tools: whose they are is recognised by their keys, and the encoder is read, all of it or none.

Nothing in a file is executed (`weights_only`). Known: this suite; the authors' v1 and v2 (facebookresearch/moco) and v3
(facebookresearch/moco-v3); lightly and solo-learn; plain state dicts of torchvision's and timm's networks, also inside
{"state_dict": ...} or {"model": ...}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from moco import checkpoint
from moco.config import ResNet, ViT
from moco.encoders import Encoder, build_encoder
from moco.weights.names import State, from_numbered, from_timm, listed

# Which network a state dict is of, read from the names and shapes of its tensors (torchvision's names).


# blocks in the four stages, and whether they are bottlenecks -> depth
DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
HEADS = {192: 3, 384: 12, 768: 12, 1024: 16}  # of moco-v3's sizes: weights do not tell


def architecture_of(state: Mapping[str, Tensor]) -> ResNet | ViT:
    """Raises ValueError for a network that this suite does not have, with what was seen."""
    if "conv_proj.weight" in state:
        return _vit(state)
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        return _resnet(state)
    raise ValueError(f"neither a ResNet nor a ViT: the first tensors are {', '.join(list(state)[:5])}")


def _resnet(state: Mapping[str, Tensor]) -> ResNet:
    blocks = tuple(_count(state, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in state
    depth = DEPTHS.get((blocks, bottleneck))
    if depth is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise ValueError(
            f"a ResNet with {blocks} {kind} blocks: known are {', '.join(map(str, DEPTHS.values()))} layers"
        )
    stem = "imagenet" if state["conv1.weight"].shape[-1] == 7 else "small"
    if not bottleneck:
        return ResNet(depth=depth, stem=stem)  # type: ignore[arg-type]
    width, per_group = state["layer1.0.conv2.weight"].shape[:2]
    groups = width // per_group
    return ResNet(depth=depth, stem=stem, groups=groups, width_per_group=width // groups)  # type: ignore[arg-type]


def _vit(state: Mapping[str, Tensor]) -> ViT:
    width, _, patch, _ = state["conv_proj.weight"].shape
    if width not in HEADS:
        raise ValueError(
            f"a ViT of width {width}: its heads cannot be told from the weights; known widths are {[*HEADS]}"
        )
    depth = _count(state, r"encoder\.layers\.encoder_layer_(\d+)\.")
    return ViT(
        width=width, depth=depth, heads=HEADS[width], patch=patch, position="learned", freeze_patch_projection=False
    )


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def image_size_of(config: ResNet | ViT, state: Mapping[str, Tensor]) -> int | None:
    """Side in pixels that a ViT's positions are for; a ResNet takes any."""
    if isinstance(config, ResNet):
        return None
    patches = state["encoder.pos_embedding"].shape[1] - 1
    return int(patches**0.5 + 0.5) * config.patch


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
