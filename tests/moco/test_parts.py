"""Queue, losses, BatchNorm, schedules, initial weights: each against a closed form or a slow version of its own."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moco.batchnorm import SplitBatchNorm2d, measure_statistics
from moco.config import Config, Cosine, Data, Head, Momentum, Queue, ResNet, Step, Train
from moco.encoders import build_encoder
from moco.losses import chance_loss, info_nce
from moco.model import MomentumContrast, build
from moco.negatives import KeyQueue, Sample
from moco.randomness import generator
from moco.schedule import learning_rate

SMALL = Config(
    data=Data(image_size=16),
    encoder=ResNet(depth=8, stem="small", width=8, batch_norm_splits=4),
    head=Head(dim=16),
    negatives=Queue(40),
    train=Train(epochs=2, batch_size=16),
)


def unit(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=generator("cpu", seed)), dim=1)


def sample(images: torch.Tensor, step: int = 0) -> Sample:
    return Sample(step, images, images % 3, torch.arange(len(images)))


def momentum_model(config: Config = SMALL) -> MomentumContrast:
    model = build(config, images=100, classes=10)
    assert isinstance(model, MomentumContrast)
    return model


@pytest.mark.parametrize("batches", [[3, 3, 3, 3], [5, 7, 2, 11, 4], [25, 1], [10]])
def test_the_ring_holds_what_a_deque_holds(batches: list[int]) -> None:
    queue = KeyQueue(Queue(10), 4, generator("cpu", 0))
    oracle = deque(((k.tolist(), -1, -1) for k in queue.keys_KC), maxlen=10)
    image = 0
    for step, size in enumerate(batches):
        keys = unit(size, 4, step)
        queue.update(keys, sample(torch.arange(image, image + size), step))
        oracle.extend((keys[i].tolist(), image + i, step) for i in range(size))
        image += size
    held = zip(queue.keys_KC.tolist(), queue.images_K.tolist(), queue.arrivals_K.tolist(), strict=True)
    assert sorted(held) == sorted(oracle)
    oldest = int(queue.pointer) if sum(batches) % 10 else 0
    assert queue.images_K.roll(-oldest).tolist() == [image for _, image, _ in oracle] or sum(batches) < 10


def test_info_nce_of_equal_scores_is_log_n() -> None:
    scores = torch.full((6, 33), 0.3)
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[:, 0] = True
    assert info_nce(scores, positive, 0.07).item() == pytest.approx(math.log(33), rel=1e-6)
    assert chance_loss(33) == math.log(33)


def test_info_nce_is_cross_entropy_over_the_queue() -> None:
    queue = KeyQueue(Queue(40), 16, generator("cpu", 0))
    q, k = unit(8, 16, 1).requires_grad_(), unit(8, 16, 2)
    loss = info_nce(*queue.scores(q, k, sample(torch.arange(8))), 0.07)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.keys_KC.T], 1) / 0.07
    expected = F.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    mine, theirs = (torch.autograd.grad(x, q, retain_graph=True)[0] for x in (loss, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_info_nce_averages_several_positives_outside_the_log() -> None:
    scores = torch.randn(5, 9, generator=generator("cpu", 3))
    positive = torch.rand(5, 9, generator=generator("cpu", 4)) > 0.5
    positive[:, 2] = True
    total = 0.0
    for row, mask in zip(scores.tolist(), positive.tolist(), strict=True):
        norm = sum(math.exp(s / 0.5) for s in row)
        logs = [math.log(math.exp(s / 0.5) / norm) for s, p in zip(row, mask, strict=True) if p]
        total -= sum(logs) / len(logs)
    assert info_nce(scores, positive, 0.5).item() == pytest.approx(total / 5, rel=1e-5)


def test_info_nce_adds_several_positives_up_inside_the_log() -> None:
    """Loss and gradient of -log(sum over positives / sum over candidates); one positive is the other form."""
    scores = torch.randn(5, 9, generator=generator("cpu", 3), dtype=torch.float64).requires_grad_()
    positive = torch.rand(5, 9, generator=generator("cpu", 4)) > 0.5
    positive[:, 2] = True
    weights = (scores / 0.5).exp()
    expected = -torch.stack([(w[p].sum() / w.sum()).log() for w, p in zip(weights, positive, strict=True)]).mean()
    loss = info_nce(scores, positive, 0.5, "inside")
    torch.testing.assert_close(loss, expected)
    mine, theirs = (torch.autograd.grad(x, scores, retain_graph=True)[0] for x in (loss, expected))
    torch.testing.assert_close(mine, theirs)
    one = torch.zeros_like(positive)
    one[:, 2] = True
    torch.testing.assert_close(info_nce(scores, one, 0.5, "inside"), info_nce(scores, one, 0.5))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_split_batch_norm_is_batch_norm_of_each_part(memory_format: torch.memory_format) -> None:
    images = torch.randn(12, 5, 6, 6, generator=generator("cpu", 0)).contiguous(memory_format=memory_format)
    split, plain = SplitBatchNorm2d(5, splits=3), [nn.BatchNorm2d(5) for _ in range(3)]
    out = split(images)
    expected = torch.cat([norm(part) for norm, part in zip(plain, images.chunk(3), strict=True)])
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(split.running_mean, torch.stack([n.running_mean for n in plain]).mean(0))
    torch.testing.assert_close(split.running_var, torch.stack([n.running_var for n in plain]).mean(0))
    split.eval()
    reference = nn.BatchNorm2d(5)
    reference.load_state_dict(split.state_dict())
    torch.testing.assert_close(split(images), reference.eval()(images))


def test_shuffling_matters_only_where_batch_norm_is_split() -> None:
    images = torch.randn(16, 3, 16, 16, generator=generator("cpu", 0))
    order = torch.randperm(16, generator=generator("cpu", 1))
    for splits, same in ((1, True), (4, False)):
        torch.manual_seed(0)
        encoder = build_encoder(ResNet(depth=8, stem="small", width=8, batch_norm_splits=splits))
        shuffled = torch.empty_like(encoder(images)).index_copy_(0, order, encoder(images[order]))
        assert torch.allclose(encoder(images), shuffled, atol=1e-5) is same


def test_keys_come_back_in_the_order_of_their_images() -> None:
    model = momentum_model(replace(SMALL, key_encoder=Momentum(0.9, shuffle=True)))
    images = torch.randn(16, 3, 16, 16, generator=generator("cpu", 0))
    order = torch.randperm(16, generator=generator("cpu", 0, "shuffle", 7))
    (keys,) = model.keys((images, images), step=7)
    for place, image in enumerate(order.tolist()):
        torch.testing.assert_close(keys[image], model.key(images[order])[place], rtol=1e-4, atol=1e-5)


def test_the_key_encoder_is_the_closed_form_of_its_average() -> None:
    """With a constant query, theta_k after n updates is theta_q + m^n (theta_0 - theta_q); buffers stay."""
    model = momentum_model(replace(SMALL, key_encoder=Momentum(0.9)))
    start = [p.clone() for p in model.key.parameters()]
    buffers = [b.clone() for b in model.key.buffers()]
    with torch.no_grad():
        for p in model.query.parameters():
            p.add_(1.0)
        for b in model.query.buffers():
            b.add_(1)
    for _ in range(5):
        model.begin(0, 10)
    for p, q, first in zip(model.key.parameters(), model.query.parameters(), start, strict=True):
        torch.testing.assert_close(p, q + 0.9**5 * (first - q))
    assert all(torch.equal(a, b) for a, b in zip(model.key.buffers(), buffers, strict=True))


def test_arms_of_one_seed_share_what_they_do_not_change() -> None:
    base = momentum_model()
    for other in (replace(SMALL, head=Head(hidden=(0,), dim=16)), replace(SMALL, negatives=Queue(20))):
        twin = momentum_model(other).query.encoder
        for mine, theirs in zip(base.query.encoder.parameters(), twin.parameters(), strict=True):
            assert torch.equal(mine, theirs)
    other_seed = momentum_model(replace(SMALL, train=replace(SMALL.train, seed=1)))
    first, second = (next(m.query.encoder.parameters()) for m in (base, other_seed))
    assert not torch.equal(first, second)


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    momentum_model()
    assert torch.equal(torch.rand(3), expected)


def test_step_schedule_point_by_point() -> None:
    v1 = Step((120, 160), 0.1)
    expected = {0: 0.03, 119: 0.03, 120: 0.003, 159: 0.003, 160: 0.0003, 199: 0.0003}
    for epoch, lr in expected.items():
        for within in (0, 9):
            assert learning_rate(v1, 0.03, epoch * 10 + within, 10, 200) == pytest.approx(lr, rel=1e-12)


def test_cosine_schedules_point_by_point() -> None:
    def rate(schedule: Cosine, step: int) -> float:
        return learning_rate(schedule, 1.0, step, steps_per_epoch=10, epochs=8)

    for epoch in range(8):  # v2: constant within an epoch
        for within in (0, 9):
            assert rate(Cosine(), epoch * 10 + within) == pytest.approx((1 + math.cos(math.pi * epoch / 8)) / 2)
    assert rate(Cosine(first_epoch=1), 79) == pytest.approx(0.0, abs=1e-12)  # the notebook's last epoch trains at 0
    v3 = Cosine(warmup_epochs=2, per_step=True)
    assert [rate(v3, s) for s in (0, 5, 19)] == pytest.approx([0.0, 0.25, 0.95])
    assert rate(v3, 20) == pytest.approx(1.0)
    assert rate(v3, 50) == pytest.approx(0.5)


def test_measured_statistics_are_the_mean_over_batches() -> None:
    norm = nn.BatchNorm2d(3)
    batches = [torch.randn(8, 3, 4, 4, generator=generator("cpu", i)) + i for i in range(4)]
    measure_statistics(nn.Sequential(norm), batches)
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0))
    assert norm.momentum == 0.1


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnets_are_torchvisions(depth: int) -> None:
    """Same weights under the same seed, same features on ImageNet-sized input."""
    from torchvision.models import resnet

    torch.manual_seed(0)
    ours = build_encoder(ResNet(depth=depth)).eval()
    torch.manual_seed(0)
    theirs = getattr(resnet, f"resnet{depth}")().eval()
    theirs.fc = nn.Identity()
    image = torch.randn(1, 3, 64, 64, generator=generator("cpu", 0))
    assert torch.equal(ours(image), theirs(image))
    assert ours.feature_dim == ours(image).shape[1]
