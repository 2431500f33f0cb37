"""Learning rate, momentum and weight decay point by point, against the formulas as the papers and their code print them."""

from __future__ import annotations

import math

import pytest

from moco.config import LARS, SGD, AdamW, Cosine, Momentum, Step
from moco.optim import scaled_lr
from moco.schedule import learning_rate, momentum_at, weight_decay_at

STEPS, EPOCHS = 5, 30  # steps in an epoch
POINTS = [(epoch, within) for epoch in range(EPOCHS) for within in range(STEPS)]


def rate(schedule: Step | Cosine, epoch: int, within: int, base: float = 0.03) -> float:
    return learning_rate(schedule, base, epoch * STEPS + within, STEPS, EPOCHS)


def test_v1s_steps() -> None:
    for epoch, within in POINTS:
        expected = 0.03 if epoch < 12 else 0.003 if epoch < 20 else 0.0003
        assert rate(Step((12, 20)), epoch, within) == pytest.approx(expected, rel=1e-12)


def test_v2s_cosine_per_epoch() -> None:
    for epoch, within in POINTS:
        expected = 0.03 * 0.5 * (1.0 + math.cos(math.pi * epoch / EPOCHS))
        assert rate(Cosine(), epoch, within) == pytest.approx(expected, rel=1e-12)


def test_v3s_warm_up_and_cosine_per_step() -> None:
    for epoch, within in POINTS:
        e = epoch + within / STEPS
        expected = 0.6 * e / 10 if e < 10 else 0.6 * 0.5 * (1.0 + math.cos(math.pi * (e - 10) / (EPOCHS - 10)))
        assert rate(Cosine(warmup_epochs=10, per_step=True), epoch, within, 0.6) == pytest.approx(expected, abs=1e-15)
    assert rate(Cosine(warmup_epochs=10, per_step=True), 0, 0) == 0.0


def test_v3s_momentum_reaches_one() -> None:
    ramp = Momentum(0.99, ramp_to=1.0)
    for epoch, within in POINTS:
        e = epoch + within / STEPS
        expected = 1.0 - 0.5 * (1.0 + math.cos(math.pi * e / EPOCHS)) * (1.0 - 0.99)
        assert momentum_at(ramp, epoch * STEPS + within, EPOCHS * STEPS) == pytest.approx(expected, rel=1e-14)
    assert momentum_at(ramp, EPOCHS * STEPS, EPOCHS * STEPS) == 1.0


def test_v2plus_momentum_goes_from_start_to_end() -> None:
    """0.99 to 0.999: the share of the way is 0 at first, a half in the middle, 1 at the end."""
    total = EPOCHS * STEPS
    for step in range(total + 1):
        share = math.sin(math.pi * step / total / 2) ** 2
        expected = 0.99 * (1 - share) + 0.999 * share
        assert momentum_at(Momentum(0.99, ramp_to=0.999), step, total) == pytest.approx(expected, rel=1e-13)
        assert momentum_at(Momentum(0.999), step, total) == 0.999


@pytest.mark.parametrize("kind", [SGD, AdamW, LARS])
def test_weight_decay_follows_a_half_cosine(kind: type[SGD] | type[AdamW] | type[LARS]) -> None:
    total = EPOCHS * STEPS
    for step in range(total + 1):
        expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * step / total))
        assert weight_decay_at(kind(weight_decay=0.04, weight_decay_to=0.4), step, total) == pytest.approx(expected)
        assert weight_decay_at(kind(weight_decay=0.04), step, total) == 0.04


def test_the_rate_is_that_of_256_images() -> None:
    """v3's ResNet: 0.6 x 4096 / 256 = 9.6; v1 on 4 GPUs: 0.03 x 128 / 256 = 0.015; the square root between."""
    assert scaled_lr(LARS(lr=0.6, scaling="linear"), 4096) == pytest.approx(9.6, rel=1e-14)
    assert scaled_lr(SGD(lr=0.03, scaling="linear"), 128) == pytest.approx(0.015, rel=1e-14)
    assert scaled_lr(AdamW(lr=1e-3, scaling="sqrt"), 4096) == pytest.approx(4e-3, rel=1e-14)
    assert scaled_lr(SGD(lr=0.03), 4096) == 0.03
