"""Heads, layer by layer against modules written out by hand. B images, D features, C embedding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from moco.config import Head, Predictor
from moco.encoders import build_classifier, build_head, build_predictor
from moco.losses import info_nce, info_nce_explicit
from moco.randomness import generator

# Each under the seed it is drawn from: torch's modules consume the generator in the order they are written.
WRITTEN_OUT = {
    "v1": (
        lambda: build_head(Head((), 16), 24),
        lambda: [nn.Linear(24, 16)],
    ),
    "v2": (
        lambda: build_head(Head((0,), 16), 24),
        lambda: [nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 16)],
    ),
    "reduced compute": (
        lambda: build_head(Head((20, 10), 5), 24),
        lambda: [nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 5)],
    ),
    "v3 projector, ResNet": (
        lambda: build_head(Head((32,), 16, norm=True, last_norm=True), 24),
        lambda: [
            nn.Linear(24, 32, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 16, bias=False),
            nn.BatchNorm1d(16, affine=False),
        ],
    ),
    "v3 projector, ViT": (
        lambda: build_head(Head((32, 40), 16, norm=True, last_norm=True), 24),
        lambda: [
            nn.Linear(24, 32, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 40, bias=False),
            nn.BatchNorm1d(40),
            nn.ReLU(),
            nn.Linear(40, 16, bias=False),
            nn.BatchNorm1d(16, affine=False),
        ],
    ),
    "v3 predictor, ResNet": (
        lambda: build_predictor(Predictor((32,)), 16),
        lambda: [nn.Linear(16, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16, bias=False)],
    ),
    "v3 predictor, ViT": (
        lambda: build_predictor(Predictor((32,), last_norm=True), 16),
        lambda: [
            nn.Linear(16, 32, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 16, bias=False),
            nn.BatchNorm1d(16, affine=False),
        ],
    ),
    "last BatchNorm alone": (
        lambda: build_head(Head((32,), 16, last_norm=True), 24),
        lambda: [
            nn.Linear(24, 32),
            nn.ReLU(),
            nn.Linear(32, 16, bias=False),
            nn.BatchNorm1d(16, affine=False),
        ],
    ),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_head_is_what_the_paper_lists(name: str) -> None:
    """Same keys, same bits of weights under one seed, same bits of embeddings."""
    build, write = WRITTEN_OUT[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        ours = build()
        torch.manual_seed(3)
        expected = nn.Sequential(*write())
    assert ours.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), expected.parameters(), strict=True))
    width = next(ours.parameters()).shape[1]
    features = torch.randn(8, width, generator=generator("cpu", "features", width))
    assert torch.equal(ours(features.clone()), expected(features))


def test_a_classifier_is_torchvisions_last_layer() -> None:
    """torchvision's own, as torch initialises it: uniform within 1 / sqrt(features)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = build_classifier(512, 10)
        torch.manual_seed(0)
        drawn = [nn.init.uniform_(torch.empty(shape), -(512**-0.5), 512**-0.5) for shape in ((10, 512), (10,))]
    theirs = resnet18(num_classes=10).fc
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    for mine, expected in zip(ours.parameters(), drawn, strict=True):
        torch.testing.assert_close(mine.detach(), expected)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_the_printed_form_of_info_nce_is_the_stable_one(temperature: float) -> None:
    """Value and gradient in float64, with one positive and with several."""
    scores = (
        torch.rand(6, 40, dtype=torch.float64, generator=generator("cpu", "scores")).mul_(2).sub_(1).requires_grad_()
    )
    positive = torch.rand(6, 40, generator=generator("cpu", "positive")) > 0.8
    positive[:, 0] = True
    one = torch.zeros_like(positive)
    one[:, 0] = True
    for mask in (one, positive):
        stable, printed = (loss(scores, mask, temperature) for loss in (info_nce, info_nce_explicit))
        torch.testing.assert_close(printed, stable, rtol=1e-12, atol=0)
        gradients = (torch.autograd.grad(loss, scores)[0] for loss in (stable, printed))
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_the_printed_form_overflows_in_half_precision() -> None:
    """e^(1 / 0.05) is 4.9e8 and float16 ends at 65504: a perfect match has no loss left, nor a gradient."""
    scores = torch.full((4, 9), 0.875, dtype=torch.float16)
    scores[:, 0] = 1.0
    scores.requires_grad_()
    positive = torch.zeros(4, 9, dtype=torch.bool)
    positive[:, 0] = True
    printed, stable = (loss(scores, positive, 0.05) for loss in (info_nce_explicit, info_nce))
    assert math.isnan(printed.item())
    assert torch.autograd.grad(printed, scores)[0].isnan().any()
    assert stable.dtype == torch.float32
    assert stable.item() == pytest.approx(math.log(1 + 8 * math.exp(-0.125 / 0.05)), rel=1e-5)
    assert torch.autograd.grad(stable, scores)[0].isfinite().all()
    at_ease = info_nce_explicit(scores, positive, 0.2).item()  # e^5 = 148 fits
    assert at_ease == pytest.approx(math.log(1 + 8 * math.exp(-0.125 / 0.2)), rel=1e-2)
