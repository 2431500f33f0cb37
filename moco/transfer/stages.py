"""An encoder as a stem and stages of falling resolution, for the tasks that need maps, and what their networks share.

The encoder itself is left as it was: a copy is made. B images, K channels of a stage.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from moco.batchnorm import normalise_batch_at_hand
from moco.encoders import Encoder


class TaskNetwork(nn.Module):
    """Stages with the head of a task. Images are uint8, of any size, as they are; targets and answers are the task's."""

    def losses(self, images: Sequence[Tensor], targets: Sequence[Any]) -> dict[str, Tensor]:
        """By name, in training mode; their sum is minimised."""
        raise NotImplementedError

    def predict(self, images: Sequence[Tensor]) -> list[Any]:
        """An answer for each image, in evaluation mode."""
        raise NotImplementedError


class Stages(nn.Module):
    """`stages[i]` after `stages[i - 1]` after the stem; `channels[i]` wide, `strides[i]` pixels apart."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)

    @property
    def channels(self) -> list[int]:
        return [_width(stage) for stage in self.stages]

    @property
    def strides(self) -> list[int]:
        stride, found = _stride(self.stem), []
        for stage in self.stages:
            stride *= _stride(stage)
            found.append(stride)
        return found

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """The map of every stage."""
        map_BKHW, maps = self.stem(images_B3HW), []
        for stage in self.stages:
            map_BKHW = stage(map_BKHW)
            maps.append(map_BKHW)
        return maps


def stages_of(encoder: Encoder) -> Stages:
    """A trainable copy. BatchNorm is over the images at hand. Raises ValueError for a network without maps."""
    net = copy.deepcopy(encoder.backbone).requires_grad_(True)
    normalise_batch_at_hand(net)
    if isinstance(net, resnet.ResNet):
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        return Stages(stem, [net.layer1, net.layer2, net.layer3, net.layer4])
    if isinstance(net, nn.Sequential):  # the narrow one: convolution, norm, ReLU, blocks, pooling, flattening
        blocks = [child for child in net if isinstance(child, BasicBlock)]
        return Stages(net[:3], [nn.Sequential(block) for block in blocks])
    raise ValueError(
        f"{type(net).__name__}: detection and segmentation need the maps of a ResNet; this encoder is a vision transformer"
    )


def _width(stage: nn.Module) -> int:
    last = list(stage.children())[-1]
    if isinstance(last, Bottleneck):
        return int(last.conv3.out_channels)
    assert isinstance(last, BasicBlock), last
    return int(last.conv2.out_channels)


def _stride(part: nn.Module) -> int:
    """The shortcuts' strides are those of their blocks."""
    stride = 1
    for name, module in part.named_modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and "downsample" not in name:
            one = module.stride if isinstance(module.stride, int) else module.stride[0]
            stride *= int(one)
    return stride


def dilate(stages: Stages, count: int) -> None:
    """The last `count` stages keep the resolution of the one before: strides become dilations (a trous).

    Every second value of the map (of two stages: every fourth) is what the strided stage would give, for the convolution
    that had the stride still looks at its old neighbours and only those after it look further.
    """
    before = 1
    for stage in list(stages.stages)[len(stages.stages) - count :]:
        after = before * _stride(stage)
        for conv in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
            strided = conv.stride != (1, 1)
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                step = before if strided else after
                conv.dilation = conv.padding = (step, step)
        before = after


def frozen_norms(module: nn.Module) -> None:
    """Every BatchNorm inside becomes the fixed scale and shift that its statistics make, as torchvision's detectors do."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            fixed = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            fixed.load_state_dict(child.state_dict())
            setattr(module, name, fixed)
        else:
            frozen_norms(child)
