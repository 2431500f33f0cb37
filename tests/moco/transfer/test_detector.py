"""Oracles: torchvision's own pyramid with the same weights, the encoder's features, and its detector's parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

from moco.config import ResNet
from moco.encoders import Encoder, build_encoder
from moco.model import seeded
from moco.randomness import generator
from moco.transfer.detector import Detector, FirstStages, LastStage, Pooled, Pyramid
from moco.transfer.recipes import RECIPES, recipe_for
from moco.transfer.stages import stages_of

IMAGES = torch.randn(2, 3, 64, 64, generator=generator("cpu", "images"))


def encoder_of(depth: int = 18) -> Encoder:
    with seeded(1, "detector"):
        return build_encoder(ResNet(depth=depth)).eval()  # type: ignore[arg-type]


@torch.no_grad()
def test_the_pyramid_is_torchvisions() -> None:
    encoder = encoder_of()
    body = resnet18(weights=None)
    body.load_state_dict(encoder.backbone.state_dict(), strict=False)
    theirs = _resnet_fpn_extractor(body, 5, norm_layer=nn.BatchNorm2d).eval()
    ours = Pyramid(stages_of(encoder), 256, 4).eval()
    ours.fpn.load_state_dict(theirs.fpn.state_dict())
    levels, expected = ours(IMAGES), theirs(IMAGES)
    assert list(levels) == list(expected) == ["0", "1", "2", "3", "pool"]
    assert all(torch.equal(levels[name], expected[name]) for name in expected)


@torch.no_grad()
def test_a_region_that_is_the_whole_image_has_the_encoders_features() -> None:
    """C4: first stages, last stage, a new norm (of mean 0 and variance 1), the mean over the place."""
    encoder = encoder_of()
    stages = stages_of(encoder).eval()
    first, pooled = FirstStages(stages).eval(), Pooled(LastStage(stages)).eval()
    features_BD = pooled(first(IMAGES)) * (1 + pooled.last.norm.eps) ** 0.5
    torch.testing.assert_close(features_BD, encoder(IMAGES), rtol=1e-5, atol=1e-6)
    assert first.out_channels == 256


def test_the_papers_detector_has_the_papers_parts() -> None:
    """R50-C4: proposals on 1,024 channels with 15 anchors, regions of 14, a head of 2,048; one stage for boxes and masks."""
    recipe = RECIPES["coco_c4_2x"]()
    detector = Detector(stages_of(encoder_of(50)), 80, recipe, (0.5,) * 3, (0.5,) * 3)
    network = detector.network
    assert (network.rpn.head.conv[0][0].in_channels, network.rpn.head.cls_logits.out_channels) == (1024, 15)
    heads = network.roi_heads
    assert heads.box_roi_pool.output_size == (14, 14)
    assert (heads.box_predictor.cls_score.in_features, heads.box_predictor.cls_score.out_features) == (2048, 81)
    assert heads.mask_head is heads.box_head.last
    sizes = [detector.train(mode).network.transform.min_size for mode in (True, False)]
    assert sizes == [(640, 672, 704, 736, 768, 800), (800,)]
    names = {id(p) for p in network.parameters()}
    assert names >= {id(p) for p in heads.mask_head.stage.parameters()}


def test_a_pyramid_needs_a_size_for_every_level() -> None:
    recipe = replace(recipe_for("detection", "scenes"), neck="fpn", anchors=(8, 16, 32, 64, 128))
    narrow = stages_of(build_encoder(ResNet(depth=8, stem="strided", width=8)))
    with pytest.raises(ValueError, match="a pyramid over 3 stages has one size a level, 2 to 4 of them"):
        Detector(narrow, 10, recipe, (0.5,) * 3, (0.5,) * 3)
