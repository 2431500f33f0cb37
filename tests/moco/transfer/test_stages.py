"""Oracles: the encoder's own intermediate outputs, torchvision's dilated ResNet, maps that are seen twice."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from moco.config import ResNet, ViT
from moco.encoders import Encoder, build_encoder
from moco.model import seeded
from moco.randomness import generator
from moco.transfer.stages import dilate, frozen_norms, stages_of

Depth = Literal[8, 18, 34, 50, 101, 152]
Stem = Literal["imagenet", "small", "strided"]
KINDS: list[tuple[Depth, Stem]] = [(8, "strided"), (8, "small"), (18, "imagenet"), (18, "strided")]


def encoder_of(depth: Depth, stem: Stem, splits: int = 1) -> Encoder:
    with seeded(0, "stages"):
        encoder = build_encoder(ResNet(depth=depth, stem=stem, width=8 if depth == 8 else 64, batch_norm_splits=splits))
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics that matter
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return encoder.eval()


def images(side: int = 48) -> Tensor:
    return torch.randn(2, 3, side, side, generator=generator("cpu", "images"))


def intermediate(encoder: Encoder, images_B3SS: Tensor) -> tuple[list[Tensor], Tensor]:
    """What the stages put out while the encoder itself runs, and its features."""
    net = encoder.backbone
    parts = list(net)[3:6] if isinstance(net, nn.Sequential) else [getattr(net, f"layer{n}") for n in (1, 2, 3, 4)]
    seen: list[Tensor] = []
    hooks = [part.register_forward_hook(lambda _, __, output: seen.append(output)) for part in parts]
    features_BD = encoder(images_B3SS)
    for hook in hooks:
        hook.remove()
    return seen, features_BD


@pytest.mark.parametrize(("depth", "stem"), KINDS)
@torch.no_grad()
def test_maps_are_the_encoders_own(depth: Depth, stem: Stem) -> None:
    encoder, images_B3SS = encoder_of(depth, stem), images(64)
    expected, features_BD = intermediate(encoder, images_B3SS)
    stages = stages_of(encoder).eval()
    maps = stages(images_B3SS)
    assert [torch.equal(ours, theirs) for ours, theirs in zip(maps, expected, strict=True)] == [True] * len(expected)
    assert torch.equal(nn.AdaptiveAvgPool2d(1)(maps[-1]).flatten(1), features_BD)
    assert stages.channels == [one.shape[1] for one in expected]
    assert stages.strides == [64 // one.shape[-1] for one in expected]


def test_the_encoder_stays_as_it_is_and_a_copy_is_trainable() -> None:
    encoder = encoder_of(8, "strided", splits=4)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    stages = stages_of(encoder.requires_grad_(False)).train()
    stages(images()[:1])[-1].sum().backward()  # of one image: four parts of a batch could not be made of it
    with torch.no_grad():
        for parameter in stages.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(("depth", "stem", "count"), [(8, "strided", 1), (8, "strided", 2), (18, "imagenet", 2)])
@torch.no_grad()
def test_every_second_value_of_a_dilated_map_is_that_of_the_strided_one(depth: Depth, stem: Stem, count: int) -> None:
    encoder, images_B3SS = encoder_of(depth, stem), images(64)
    strided = stages_of(encoder).eval()
    dilated = stages_of(encoder).eval()
    dilate(dilated, count)
    expected, fine = strided(images_B3SS)[-1], dilated(images_B3SS)[-1]
    step = 2**count
    assert fine.shape[-1] == step * expected.shape[-1]
    torch.testing.assert_close(fine[..., ::step, ::step], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_dilated_bottlenecks_are_those_of_torchvision() -> None:
    encoder, images_B3SS = encoder_of(50, "imagenet"), images(64)[:1]
    theirs = resnet50(weights=None, replace_stride_with_dilation=[False, True, True]).eval()
    missing = theirs.load_state_dict(encoder.backbone.state_dict(), strict=False)
    assert missing.missing_keys == ["fc.weight", "fc.bias"]
    theirs.fc = nn.Identity()
    ours = stages_of(encoder).eval()
    dilate(ours, 2)
    torch.testing.assert_close(ours(images_B3SS)[-1].mean((2, 3)), theirs(images_B3SS), rtol=1e-5, atol=1e-5)


def test_frozen_norms_are_the_statistics_in_training_too() -> None:
    encoder, images_B3SS = encoder_of(8, "strided"), images()
    expected, _ = intermediate(encoder, images_B3SS)
    stages = stages_of(encoder)
    frozen_norms(stages)
    stages.train()
    for ours, theirs in zip(stages(images_B3SS), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_vision_transformer_has_no_maps() -> None:
    vit = build_encoder(ViT(width=16, depth=1, heads=2, patch=4), 16)
    with pytest.raises(ValueError, match="need the maps of a ResNet; this encoder is a vision transformer"):
        stages_of(vit)
