"""Which network tensors are of: what their names and shapes tell, and what they leave open.

Open are the heads of a transformer, and what lies around a ResNet's first convolution (stride, padding, pooling): files
with the same tensors give other features. `moco.weights.makers` says what the code of a maker does there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isqrt
from typing import Literal

import torch
from torch import Tensor, nn

from moco.config import ResNet, ViT
from moco.encoders import Encoder, build_encoder
from moco.weights.names import State, listed

# blocks in the four stages, and whether they are bottlenecks -> depth
DEPTHS: dict[tuple[tuple[int, ...], bool], Literal[18, 34, 50, 101, 152]] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
COUNTER = (
    "num_batches_tracked"  # of BatchNorm: torch before 0.4.1 and detectron2 have none; features do not depend on it
)


@dataclass(frozen=True)
class Seen:
    """What tensors tell. `kernel`: side of a ResNet's first convolution. `config` holds placeholders for what is open:
    stem "small" for a ResNet's 3 x 3, one head for a transformer. `image_size`: side in pixels that a
    transformer's positions are for; a ResNet takes any.
    """

    config: ResNet | ViT
    kernel: int
    image_size: int | None


def architecture_of(state: Mapping[str, Tensor]) -> Seen:
    """Of tensors under torchvision's names. Raises ValueError, with what was seen, for a network that this suite lacks."""
    if "encoder.layers.encoder_layer_0.ln_1.weight" in state:
        return _vit(state)
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        return _resnet(state)
    if "0.weight" in state and "3.conv1.weight" in state:
        weight = state["0.weight"]
        return Seen(ResNet(depth=8, width=weight.shape[0], stem="small"), weight.shape[-1], None)
    raise ValueError(f"neither a ResNet nor a ViT: the first tensors are {', '.join(list(state)[:5])}")


def _resnet(state: Mapping[str, Tensor]) -> Seen:
    blocks = tuple(_count(state, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in state
    depth = DEPTHS.get((blocks, bottleneck))
    if depth is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise ValueError(
            f"a ResNet with {blocks} {kind} blocks: known are {', '.join(map(str, DEPTHS.values()))} layers"
        )
    kernel = state["conv1.weight"].shape[-1]
    if kernel not in (3, 7):
        raise ValueError(f"a ResNet whose first convolution is {kernel} x {kernel}: known are 7 x 7 and 3 x 3")
    stem: Literal["imagenet", "small"] = "imagenet" if kernel == 7 else "small"
    if not bottleneck:
        return Seen(ResNet(depth=depth, stem=stem), kernel, None)
    width, per_group = state["layer1.0.conv2.weight"].shape[:2]
    groups = width // per_group
    return Seen(ResNet(depth=depth, stem=stem, groups=groups, width_per_group=width // groups), kernel, None)


def _vit(state: Mapping[str, Tensor]) -> Seen:
    blocks = _count(state, r"encoder\.layers\.encoder_layer_(\d+)\.")
    width = state["encoder.layers.encoder_layer_0.ln_1.weight"].shape[0]
    stages = _count(state, r"conv_proj\.conv_bn_relu_(\d+)\.")
    if not stages and "conv_proj.weight" not in state:
        raise ValueError("a ViT without a patch projection (conv_proj or patch_embed.proj)")
    patch = 2**stages if stages else state["conv_proj.weight"].shape[-1]
    pooled: Literal["cls", "mean"] = "cls" if "class_token" in state else "mean"
    positions = state.get("encoder.pos_embedding")
    if positions is None or positions.dim() != 3:
        raise ValueError("a ViT without positions for each patch (encoder.pos_embedding or pos_embed)")
    patches = positions.shape[1] - (pooled == "cls")
    if isqrt(patches) ** 2 != patches:
        raise ValueError(
            f"a ViT with {positions.shape[1]} positions: a square of patches and at most one class token are known; "
            "more tokens (registers, distillation) are another network"
        )
    config = ViT(
        width=width,
        depth=blocks + bool(stages),
        heads=1,
        patch=patch,
        stem="conv" if stages else "patch",
        position="learned",
        pool=pooled,
        freeze_patch_projection=False,
    )
    return Seen(config, 0, isqrt(patches) * patch)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def with_class_position(state: State) -> State:
    """Positions for the patches only (timm's `no_embed_class`) are a class token with the position 0."""
    positions = state.get("encoder.pos_embedding")
    if positions is None or positions.dim() != 3 or "class_token" not in state:
        return state
    if isqrt(positions.shape[1]) ** 2 != positions.shape[1] or positions.shape[1] == 1:
        return state
    return {**state, "encoder.pos_embedding": nn.functional.pad(positions, (0, 0, 1, 0))}


@lru_cache(maxsize=8)
def shapes_of(config: ResNet | ViT, image_size: int) -> dict[str, torch.Size]:
    """Name -> shape of all tensors of a network, without drawing its weights: a transformer is built with one block only."""
    if isinstance(config, ResNet):
        with torch.device("meta"):
            return {name: t.shape for name, t in build_encoder(config, image_size).backbone.state_dict().items()}
    fewest = 1 + (config.stem == "conv")
    with torch.random.fork_rng(devices=[]):
        one = build_encoder(replace(config, depth=fewest), image_size).backbone.state_dict()
    first, shapes = "encoder.layers.encoder_layer_0.", {}
    for name, tensor in one.items():
        for number in range(config.depth - fewest + 1) if name.startswith(first) else ():
            shapes[f"encoder.layers.encoder_layer_{number}.{name.removeprefix(first)}"] = tensor.shape
        if not name.startswith(first):
            shapes[name] = tensor.shape
    return shapes


def problems(wanted: Mapping[str, torch.Size], found: Mapping[str, Tensor]) -> str | None:
    """What keeps tensors from filling a network, with the keys; None if nothing does. BatchNorm's counters may be absent."""
    keys = {
        "missing": [name for name in wanted if name not in found and not name.endswith(COUNTER)],
        "unknown": [name for name in found if name not in wanted],
        "of another shape": [n for n, t in found.items() if n in wanted and t.shape != wanted[n]],
    }
    return "; ".join(f"{len(names)} {what} ({listed(names)})" for what, names in keys.items() if names) or None


def filled(encoder: Encoder, state: Mapping[str, Tensor]) -> Encoder:
    """With every tensor; absent counters are 0."""
    own = encoder.backbone.state_dict()
    counters = {name: torch.zeros_like(value) for name, value in own.items() if name.endswith(COUNTER)}
    encoder.backbone.load_state_dict(counters | dict(state))
    return encoder


def described(config: ResNet | ViT) -> str:
    if isinstance(config, ViT):
        kinds = (", conv stem" if config.stem == "conv" else "") + (
            ", mean of patches" if config.pool == "mean" else ""
        )
        return f"ViT of width {config.width}, depth {config.depth}, {config.heads} heads, patch {config.patch}{kinds}"
    kind = (
        f", {config.groups} groups of {config.width_per_group}"
        if (config.groups, config.width_per_group) != (1, 64)
        else ""
    )
    wide = f" of width {config.width}" if config.depth == 8 else ""
    return f"ResNet-{config.depth}{wide} with the {config.stem} stem{kind}"
