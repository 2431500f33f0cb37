"""Each diagnostic against its closed form."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from moco import diagnostics as d
from moco.config import Queue
from moco.model import Direction
from moco.negatives import KeyQueue, Sample
from moco.randomness import generator


def test_collapsed_and_spread_embeddings() -> None:
    same = F.normalize(torch.ones(64, 16), dim=1)
    axes = torch.eye(16).repeat(4, 1)
    assert d.spread(same) == pytest.approx(0.0, abs=1e-6)
    gaussian = F.normalize(torch.randn(4096, 16, generator=generator("cpu", 0)), dim=1)
    assert d.spread(gaussian) == pytest.approx(1.0, abs=0.02)
    assert d.effective_rank(same) == pytest.approx(1.0, abs=1e-3)
    assert d.effective_rank(axes) == pytest.approx(16.0, rel=1e-5)
    assert d.uniformity(same) == pytest.approx(0.0, abs=1e-5)


def test_alignment_and_uniformity_by_loops() -> None:
    q, k = (F.normalize(torch.randn(7, 5, generator=generator("cpu", i)), dim=1) for i in range(2))
    pairs = [(i, j) for i in range(7) for j in range(i)]
    expected = math.log(sum(math.exp(-2 * float(((q[i] - q[j]) ** 2).sum())) for i, j in pairs) / len(pairs))
    assert d.uniformity(q) == pytest.approx(expected, rel=1e-5)
    by_hand = sum(float(((a - b) ** 2).sum()) for a, b in zip(q, k, strict=True)) / 7
    assert d.alignment(q @ k.T, torch.eye(7, dtype=torch.bool)) == pytest.approx(by_hand, rel=1e-5)


def test_meter_means_over_steps() -> None:
    scores = [torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.5, 0.1]]), torch.tensor([[0.8, 0.0, 0.4], [0.7, 0.6, 0.2]])]
    positive = torch.tensor([[True, False, False]] * 2)
    meter = d.Meter()
    for loss, score in zip((1.0, 3.0), scores, strict=True):
        meter.add(torch.tensor(loss), Direction(score, score, positive))
    copy = d.Meter()
    copy.load_state_dict(meter.state_dict())
    values = copy.read(chance=math.log(3))
    own, other = [0.9, 0.3, 0.8, 0.7], [0.1, 0.2, 0.5, 0.1, 0.0, 0.4, 0.6, 0.2]
    assert values["train/loss"] == pytest.approx(2.0)
    assert values["train/loss_over_chance"] == pytest.approx(2.0 / math.log(3))
    assert values["train/contrast_top1"] == pytest.approx(75.0)
    assert values["train/positive"] == pytest.approx(sum(own) / 4)
    assert values["train/gap"] == pytest.approx(sum(own) / 4 - sum(other) / 8)
    assert copy.steps == 0


def test_queue_age_and_own_images() -> None:
    queue = KeyQueue(Queue(6), 4, generator("cpu", 0))
    for step, images in enumerate(([10, 11], [12, 13])):
        queue.update(torch.zeros(2, 4), Sample(step, torch.tensor(images), torch.zeros(2).long(), torch.arange(2)))
    figures = d.queue_figures(queue, torch.tensor([11, 13, 14, 15]), step=4)
    assert figures == {"queue/age": pytest.approx((4 + 4 + 3 + 3) / 4), "queue/own_image": pytest.approx(50.0)}


def test_drift_looks_back_one_turnover() -> None:
    """Keys that turn by one degree a step have drifted by 1 - cos(turnover degrees)."""
    drift = d.KeyDrift(turnover=20)
    figures = {}
    for step in range(0, 101, 10):
        angle = math.radians(step)
        figures[step] = drift.read(step, torch.tensor([[math.cos(angle), math.sin(angle)]]))
    assert figures[0] == {}
    assert figures[10]["queue/key_drift"] == pytest.approx(1 - math.cos(math.radians(10)), abs=1e-6)
    assert figures[100]["queue/key_drift"] == pytest.approx(1 - math.cos(math.radians(20)), abs=1e-6)
