"""Encoders: images (B, 3, S, S) to features (B, feature_dim). torchvision's networks, and a narrow ResNet for small images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock

from moco.batchnorm import OfParts, norm_of_parts, norm_of_whole
from moco.config import Head, Predictor, ResNet, ViT
from moco.vit import build_vit

Norm = Callable[[int], nn.Module]


def norm_layer(splits: int) -> Norm:
    return norm_of_parts(splits)


class Encoder(OfParts):
    """A backbone without its classifier; `feature_dim` is the width of what it returns.

    `interleaved` G > 1: in training, rows i, i + G, i + 2 G, ... are one of the G parts of BatchNorm. Only BatchNorm looks at
    other rows, and its parts are neighbours: so rows change places before the backbone and go back after it.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.backbone, self.feature_dim = backbone, feature_dim

    def forward(self, images_B3SS: Tensor) -> Tensor:
        if self.interleaved == 1 or not self.training:
            features_BD: Tensor = self.backbone(images_B3SS)
            return features_BD
        parts = self.interleaved
        order_B = torch.arange(len(images_B3SS), device=images_B3SS.device).view(-1, parts).T.flatten()
        features_BD = self.backbone(images_B3SS[order_B])
        return features_BD.view(parts, -1, self.feature_dim).transpose(0, 1).flatten(0, 1)


def build_encoder(config: ResNet | ViT, image_size: int = 224) -> Encoder:
    """Initialised from the global generator: the caller seeds it (`moco.model.seeded`).

    `image_size` is the side in pixels; a ResNet takes any. Raises ValueError for a ViT whose patch does not divide it.
    """
    norm = norm_layer(config.batch_norm_splits)
    if isinstance(config, ViT):
        return Encoder(build_vit(config, image_size, norm), config.width)
    encoder = _narrow(config, norm) if config.depth == 8 else _torchvision(config, norm)
    if config.batch_norm_parts == "interleaved":
        encoder.interleaved = config.batch_norm_splits
    return encoder


def _torchvision(config: ResNet, norm: Norm) -> Encoder:
    build = getattr(resnet, f"resnet{config.depth}")
    kinds = {"groups": config.groups, "width_per_group": config.width_per_group}
    net: resnet.ResNet = build(norm_layer=norm, zero_init_residual=config.zero_init_residual, **kinds)
    feature_dim: int = net.fc.in_features
    net.fc = nn.Identity()
    if config.stem != "imagenet":
        net.conv1 = small_convolution(config, 64)
        net.maxpool = nn.Identity()
    elif config.stem_init == "torch":
        net.conv1.reset_parameters()
    return Encoder(net, feature_dim)


def small_convolution(config: ResNet, width: int) -> nn.Conv2d:
    """3 x 3 in place of ImageNet's 7 x 7 with stride 2 and its pooling (the CIFAR form); `strided` halves the side once."""
    stride, padding = (2 if config.stem == "strided" else 1), (2 if config.stem == "padded" else 1)
    conv = nn.Conv2d(3, width, kernel_size=3, stride=stride, padding=padding, bias=False)
    if config.stem_init == "he":
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's ResNet
    return conv


def _narrow(config: ResNet, norm: Norm) -> Encoder:
    """Three BasicBlocks of width w, 2w, 4w: seconds to train on a CPU; features of 4w."""
    w = config.width
    blocks = [_block(w, w, 1, norm), _block(w, 2 * w, 2, norm), _block(2 * w, 4 * w, 2, norm)]
    net = nn.Sequential(small_convolution(config, w), norm(w), nn.ReLU(inplace=True), *blocks)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and (module is not net[0] or config.stem_init == "he"):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, BasicBlock) and config.zero_init_residual:
            nn.init.zeros_(module.bn2.weight)
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return Encoder(net, 4 * w)


def _block(inplanes: int, planes: int, stride: int, norm: Norm) -> nn.Module:
    shortcut = None
    if stride != 1 or inplanes != planes:
        shortcut = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False), norm(planes))
    block: nn.Module = BasicBlock(inplanes, planes, stride, shortcut, norm_layer=norm)
    return block


# Heads: features (B, D) to embeddings (B, C) that are not yet of unit length, or to class scores.


def head_norm(width: int, affine: bool = True) -> nn.Module:
    """Every BatchNorm of a head; over the whole batch, also over several GPUs."""
    return norm_of_whole(width, affine=affine)


def hidden_layers(width: int, hidden: tuple[int, ...], norm: bool) -> list[nn.Module]:
    """Linear, [BatchNorm,] ReLU for each width. BatchNorm subtracts a bias again, so the Linear before it has none."""
    layers: list[nn.Module] = []
    for next_width in hidden:
        layers.append(nn.Linear(width, next_width, bias=not norm))
        layers += [head_norm(next_width)] if norm else []
        layers.append(nn.ReLU(inplace=True))
        width = next_width
    return layers


def build_head(config: Head, feature_dim: int) -> nn.Sequential:
    """The projection head. Plain, all layers have biases (v1: one Linear; v2: Linear-ReLU-Linear).

    With `norm` or `last_norm` the last Linear has none either, and the last BatchNorm has no scale and no shift (v3's
    projector). 0 in `hidden` is `feature_dim`.
    """
    widths = tuple(width or feature_dim for width in config.hidden)
    layers = hidden_layers(feature_dim, widths, config.norm)
    bias = not (config.norm or config.last_norm)
    layers.append(nn.Linear((feature_dim, *widths)[-1], config.dim, bias=bias))
    layers += [head_norm(config.dim, affine=False)] if config.last_norm else []
    return nn.Sequential(*layers)


def build_predictor(config: Predictor, dim: int) -> nn.Sequential:
    """v3's predictor, `dim` to `dim`: a BatchNorm after each hidden Linear, no bias anywhere. `last_norm` is ViT's variant."""
    return build_head(Head(config.hidden, dim, norm=True, last_norm=config.last_norm), dim)


def build_classifier(feature_dim: int, classes: int) -> nn.Linear:
    """One Linear, initialised as torchvision's `fc`: supervised training."""
    return nn.Linear(feature_dim, classes)
