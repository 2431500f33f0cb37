"""Networks as the makers of weight files build them: from their own packages, or written anew from what their code does.

Every one is a function of images (B, 3, S, S) to features (B, D) in evaluation mode.
"""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import timm
import torch
import torchvision
from torch import Tensor, nn

from moco.randomness import generator

SIDE = 32
IMAGES = torch.randn(3, 3, SIDE, SIDE, generator=generator("cpu", "weights of others"))
N = TypeVar("N", bound=nn.Module)


def shaken(net: N, seed: int = 0) -> N:
    """No BatchNorm statistic, scale, bias or position at its initial value, so that a tensor that is left out shows."""
    draw = generator("cpu", "shaken", seed)
    with torch.no_grad():
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=draw)
            elif tensor.dim() < 2 or name.endswith(("pos_embed", "cls_token", "pos_embedding", "class_token")):
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=draw))
    return net.eval()


def seeded(seed: int = 0) -> None:
    torch.manual_seed(seed)


@cache
def resnet(name: str = "resnet18", seed: int = 0) -> nn.Module:
    seeded(seed)
    net = getattr(torchvision.models, name)()
    net.fc = nn.Identity()
    return shaken(net, seed)


@cache
def small_resnet(padding: int = 1, stride: int = 1, seed: int = 0) -> nn.Module:
    """torchvision's ResNet-18 with a 3 x 3 first convolution and no pooling. Most have a padding of 1, solo-learn of 2."""
    seeded(seed)
    net = torchvision.models.resnet18()
    net.conv1 = nn.Conv2d(3, 64, 3, stride=stride, padding=padding, bias=False)
    net.maxpool, net.fc = nn.Identity(), nn.Identity()
    return shaken(net, seed)


class Notebook(nn.Module):
    """ModelBase of the authors' CIFAR-10 notebook: the children in a Sequential, without the pooling, the head last."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        seeded(seed)
        children = dict(torchvision.models.resnet18(num_classes=128).named_children())
        children["conv1"] = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        children.pop("maxpool")
        head = children.pop("fc")
        self.net = nn.Sequential(*children.values(), nn.Flatten(1), head)
        shaken(self, seed)

    def forward(self, images: Tensor) -> Tensor:
        return self.net[:-1](images)


class SwAV(nn.Module):
    """src/resnet50.py of facebookresearch/swav: zeros around the image, then a convolution of padding 2."""

    def __init__(self) -> None:
        super().__init__()
        seeded()
        net = torchvision.models.resnet50()
        net.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=2, bias=False)
        net.fc = nn.Identity()
        self.inner = shaken(net)

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(nn.functional.pad(images, (1, 1, 1, 1)))


class ConvStem(nn.Module):
    """moco-v3's, in the place of timm's patch projection: 3 x 3 convolutions of stride 2 and a last 1 x 1, all numbered."""

    def __init__(self, width: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        before, after = 3, width // 8
        for _ in range(4):
            parts += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before, after = after, 2 * after
        self.proj = nn.Sequential(*parts, nn.Conv2d(before, width, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


def waves(side: int, width: int) -> Tensor:
    """vits.py of moco-v3, build_2d_sincos_position_embedding; zeros for the class token."""
    grid = torch.arange(side, dtype=torch.float32)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    omega = 1.0 / 10_000 ** (torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    one, two = first.flatten()[:, None] * omega, second.flatten()[:, None] * omega
    table = torch.cat([one.sin(), one.cos(), two.sin(), two.cos()], 1)
    return torch.cat([torch.zeros(1, width), table])[None]


@cache
def vit(
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    patch: int = 8,
    side: int = SIDE,
    v3: bool = False,
    conv_stem: bool = False,
    **options: object,
) -> nn.Module:
    """timm's, which the authors of v3, DINO, iBOT and MAE take or copy."""
    seeded()
    net = timm.models.VisionTransformer(
        img_size=side, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0, **options
    )
    if conv_stem:
        net.patch_embed = ConvStem(width)
    shaken(net)
    if v3:
        net.pos_embed = nn.Parameter(waves(side // patch, width), requires_grad=False)
    return net.eval()


@cache
def torchvision_vit(width: int, depth: int, heads: int, patch: int = 8) -> nn.Module:
    seeded()
    net = torchvision.models.VisionTransformer(SIDE, patch, depth, heads, width, 4 * width)
    net.heads = nn.Identity()
    return shaken(net)


@cache
def from_timm(name: str, **options: object) -> nn.Module:
    seeded()
    return shaken(timm.create_model(name, num_classes=0, **options))


@torch.no_grad()
def features(net: nn.Module, images: Tensor = IMAGES) -> Tensor:
    return net.eval()(images).flatten(1)
