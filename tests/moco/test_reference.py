"""The factored model follows the plain reference, written from the papers, for 20 steps (float64, so 1e-6 means something)."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
import torch
from torch import nn

from moco.config import SGD, Config, Cosine, Data, Queue, ResNet, Step, Train
from moco.data import load
from moco.methods import moco_v1, moco_v2
from moco.randomness import generator
from moco.trainer import Trainer
from tests.oracles.reference_moco import ReferenceMoCo, cosine_rate, small_resnet18, step_rate

STEPS, BATCH, PARTS, QUEUE = 20, 8, 2, 50  # 50 keys: the batch does not divide the ring


def small(method: Config) -> Config:
    """The method on 16-pixel digits, its schedule squeezed to three epochs of eight steps; everything else as published."""
    schedule = method.optim.schedule
    return replace(
        method,
        data=Data(name="digits", image_size=16),
        encoder=ResNet(depth=18, stem="small", batch_norm_splits=PARTS),
        negatives=Queue(QUEUE),
        key_encoder=replace(method.key_encoder, momentum=0.9),  # so that 20 steps show a wrong moving average
        optim=replace(
            method.optim, schedule=replace(schedule, milestones=(1, 2)) if isinstance(schedule, Step) else schedule
        ),
        train=Train(epochs=3, batch_size=BATCH, device="cpu"),
    )


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Both list convolutions, norms and linears in the order of the paper's network."""
    values = [t for t in source.state_dict().values() if t.is_floating_point()]
    slots = [t for t in target.state_dict().values() if t.is_floating_point()]
    for slot, value in zip(slots, values, strict=True):
        slot.copy_(value)


@pytest.mark.parametrize("method", [moco_v1, moco_v2])
def test_twenty_steps_equal_the_reference(method) -> None:
    config = small(method())
    data = load(config.data, print)
    trainer = Trainer(config, data, torch.device("cpu"))
    trainer.batches.steps_per_epoch = 8
    trainer.total_steps = 24
    trainer.model.double()
    mlp = bool(config.head.hidden)
    query, key = (small_resnet18(PARTS, config.head.dim, mlp).double() for _ in range(2))
    copy_weights(trainer.model.query, query)
    copy_weights(trainer.model.query, key)
    sgd = config.optim
    assert isinstance(sgd, SGD)
    reference = ReferenceMoCo(
        query,
        key,
        trainer.model.source(0).keys_KC,
        m=0.9,
        temperature=config.loss.temperature,
        sgd=(sgd.momentum, sgd.weight_decay),
    )
    batches = chain.from_iterable(trainer.batches.epoch(e) for e in range(3))
    for step in range(STEPS):
        batch = next(batches)
        batch = replace(
            batch, query_view_B3SS=batch.query_view_B3SS.double(), key_view_B3SS=batch.key_view_B3SS.double()
        )
        order = torch.randperm(BATCH, generator=generator("cpu", config.train.seed, "shuffle", step))
        epoch = step // 8
        rate = cosine_rate(sgd.lr, epoch, 3) if isinstance(sgd.schedule, Cosine) else step_rate(sgd.lr, epoch, (1, 2))
        expected = reference.step(batch.query_view_B3SS, batch.key_view_B3SS, order, rate)
        trainer.take_step(batch)
        loss = float(trainer.meter.sums.pop("loss"))
        assert loss == pytest.approx(expected, rel=1e-6), f"step {step}"
    for mine, plain in zip(trainer.model.query.parameters(), query.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-8)
    # The authors' order moves the key encoder at the start of the next step.
    trainer.model.begin(STEPS, 24)
    for mine, plain in zip(trainer.model.key.parameters(), key.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-8)
    buffers = [b for n, b in trainer.model.key.named_buffers() if "running" in n]
    plain_buffers = [b for n, b in key.named_buffers() if "running" in n]
    for mine, plain in zip(buffers, plain_buffers, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(trainer.model.source(0).keys_KC, torch.stack(reference.queue), rtol=1e-6, atol=1e-8)
