"""Which network a state dict is of, read from the names and shapes of its tensors (torchvision's names)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from moco.config import ResNet, ViT

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
