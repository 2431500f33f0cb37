"""Each method after v2 follows its plain reference for 20 steps (float64, so 1e-6 means something)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moco import methods
from moco.config import (
    LARS,
    SGD,
    Config,
    Cosine,
    Data,
    Head,
    InfoNCE,
    MemoryBank,
    Predictor,
    Queue,
    ResNet,
    Train,
)
from moco.data import load
from moco.data.loader import Batch
from moco.model import Contrast, MomentumContrast, Supervised
from moco.negatives import Bank
from moco.randomness import generator
from moco.trainer import Trainer
from tests.oracles import reference_methods as r

STEPS, BATCH, PER_EPOCH, EPOCHS, WIDTH, DIM = 20, 8, 8, 3, 6, 10
TOTAL = PER_EPOCH * EPOCHS
WARM = Cosine(warmup_epochs=1, per_step=True)


def small(method: Config, parts: int, head: Head, **changes: object) -> Config:
    """The method on 16-pixel digits with a narrow encoder; its mechanism as published."""
    config = replace(
        method,
        data=Data(name="digits", image_size=16),
        encoder=ResNet(depth=8, stem="strided", width=WIDTH, batch_norm_splits=parts),
        head=head,
        train=Train(epochs=EPOCHS, batch_size=BATCH, device="cpu"),
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def mlp(dim: int = DIM) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4 * WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, dim))


def copy_weights(source: nn.Module, *targets: nn.Module) -> None:
    values = [t for t in source.state_dict().values() if t.is_floating_point()]
    for target in targets:
        slots = [t for t in target.state_dict().values() if t.is_floating_point()]
        for slot, value in zip(slots, values, strict=True):
            slot.copy_(value)


@dataclass
class Case:
    config: Config
    reference: Callable[[Trainer], r.Reference]


def sgd_of(config: Config) -> r.Sgd:
    optim = config.part(SGD)
    return r.Sgd(optim.momentum, optim.weight_decay)


def v2plus() -> Case:
    optim = SGD(lr=0.3, weight_decay=1e-4, schedule=WARM, scaling="linear")
    config = small(methods.moco_v2plus(), 1, Head((0,), DIM), negatives=Queue(50), optim=optim)

    def reference(trainer: Trainer) -> r.Reference:
        net = r.small_resnet8(WIDTH, 1, mlp()).double()
        copy_weights(trainer.model.query, net)
        plain = r.V2Plus(net, 0.2, sgd_of(config), m=r.ramp(0.99, 0.999, TOTAL))
        assert isinstance(trainer.model, MomentumContrast)
        plain.queues = [[*trainer.model.source(view).keys_KC.clone()] for view in range(2)]
        return plain

    return Case(config, reference)


def v3() -> Case:
    optim = LARS(lr=0.6, weight_decay=1e-2, schedule=WARM, scaling="linear")
    head, predictor = Head((20,), DIM, norm=True, last_norm=True), Predictor((20,))
    config = small(methods.moco_v3(), 1, head, predictor=predictor, optim=optim)

    def reference(trainer: Trainer) -> r.Reference:
        projector = nn.Sequential(
            nn.Linear(4 * WIDTH, 20, bias=False),
            nn.BatchNorm1d(20),
            nn.ReLU(),
            nn.Linear(20, DIM, bias=False),
            nn.BatchNorm1d(DIM, affine=False),
        )
        net = r.small_resnet8(WIDTH, 1, projector).double()
        copy_weights(trainer.model.query, net)
        plain = r.V3(net, 1.0, r.Lars(0.9, 1e-2), m=r.ramp(0.99, 1.0, TOTAL))
        plain.predictor = nn.Sequential(
            nn.Linear(DIM, 20, bias=False), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, DIM, bias=False)
        ).double()
        assert isinstance(trainer.model, Contrast)
        assert trainer.model.predictor is not None
        copy_weights(trainer.model.predictor, plain.predictor)
        plain.trained += list(plain.predictor.parameters())
        return plain

    return Case(config, reference)


def end_to_end() -> Case:
    config = small(methods.end_to_end(), 2, Head((), DIM))

    def reference(trainer: Trainer) -> r.Reference:
        net = r.small_resnet8(WIDTH, 2, nn.Linear(4 * WIDTH, DIM)).double()
        copy_weights(trainer.model.query, net)
        return r.EndToEnd(net, 0.07, sgd_of(config))

    return Case(config, reference)


def simclr() -> Case:
    config = small(methods.simclr(), 1, Head((0,), DIM))

    def reference(trainer: Trainer) -> r.Reference:
        net = r.small_resnet8(WIDTH, 1, mlp()).double()
        copy_weights(trainer.model.query, net)
        return r.SimClr(net, 0.5, sgd_of(config))

    return Case(config, reference)


def supcon() -> Case:
    config = small(methods.supcon(), 1, Head((0,), DIM))

    def reference(trainer: Trainer) -> r.Reference:
        net = r.small_resnet8(WIDTH, 1, mlp()).double()
        copy_weights(trainer.model.query, net)
        return r.SupCon(net, 0.1, sgd_of(config))

    return Case(config, reference)


def memory_bank() -> Case:
    config = small(methods.memory_bank(), 2, Head((), DIM), negatives=MemoryBank(40))

    def reference(trainer: Trainer) -> r.Reference:
        net = r.small_resnet8(WIDTH, 2, nn.Linear(4 * WIDTH, DIM)).double()
        copy_weights(trainer.model.query, net)
        plain = r.Bank(net, 0.07, sgd_of(config))
        assert isinstance(trainer.model, Contrast)
        plain.stored = trainer.model.source(0).stored_IC.clone()
        return plain

    return Case(config, reference)


def rate(config: Config, step: int) -> float:
    """As the papers schedule: v1 and v2 per epoch, v2+ and v3 per step after a warm-up, the rate times batch / 256."""
    schedule, epoch = config.optim.schedule, step / PER_EPOCH
    base = config.optim.lr * (BATCH / 256 if config.optim.scaling == "linear" else 1.0)
    if schedule is WARM:
        return r.warm_cosine(base, epoch, 1, EPOCHS)
    if isinstance(schedule, Cosine):
        return base * 0.5 * (1 + math.cos(math.pi * int(epoch) / EPOCHS))
    return base  # v1's milestones are far


def in_double(batch: Batch) -> Batch:
    views = {name: getattr(batch, name) for name in ("query_view_B3SS", "key_view_B3SS")}
    return replace(batch, **{name: view.double() for name, view in views.items() if view is not None})


@pytest.mark.parametrize("case", [v2plus, v3, end_to_end, simclr, supcon, memory_bank])
def test_twenty_steps_equal_the_reference(case: Callable[[], Case]) -> None:
    config, build = case().config, case().reference
    trainer = Trainer(config, load(config.data, print), torch.device("cpu"))
    trainer.batches.steps_per_epoch, trainer.total_steps = PER_EPOCH, TOTAL
    trainer.model.double()
    plain = build(trainer)
    batches = chain.from_iterable(trainer.batches.epoch(epoch) for epoch in range(EPOCHS))
    for step in range(STEPS):
        batch = in_double(next(batches))
        if isinstance(plain, r.EndToEnd):
            plain.order = torch.randperm(BATCH, generator=generator("cpu", 0, "shuffle", step))
        if isinstance(plain, r.Bank):
            assert isinstance(trainer.model, Contrast)
            source = trainer.model.source(0)
            assert isinstance(source, Bank)
            plain.drawn = source.drawn(step).tolist()
        labels, images = batch.labels_B.tolist(), batch.indices_B.tolist()
        expected = plain.step(batch.query_view_B3SS, batch.key_view_B3SS, images, labels, rate(config, step))
        trainer.take_step(batch)
        assert float(trainer.meter.sums.pop("loss")) == pytest.approx(expected, rel=1e-6), f"step {step}"
    for mine, theirs in zip(trainer.model.query.parameters(), plain.query.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)
    check_state(trainer, plain)


def check_state(trainer: Trainer, plain: r.Reference) -> None:
    """The key encoder one step on, and what the negatives have stored."""
    if isinstance(plain, r.WithMomentum):
        trainer.model.begin(STEPS, TOTAL)
        for mine, theirs in zip(trainer.model.key.parameters(), plain.key.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)
    if isinstance(plain, r.V2Plus):
        assert isinstance(trainer.model, Contrast)
        for view in range(2):
            ring = trainer.model.source(view)
            in_order = ring.keys_KC.roll(-int(ring.pointer), 0)
            torch.testing.assert_close(in_order, torch.stack(plain.queues[view]), rtol=1e-6, atol=1e-8)
    if isinstance(plain, r.Bank):
        assert isinstance(trainer.model, Contrast)
        torch.testing.assert_close(trainer.model.source(0).stored_IC, plain.stored, rtol=1e-6, atol=1e-8)


def test_supervised_is_cross_entropy() -> None:
    config = methods.supervised(small(methods.moco_v2(), 2, Head((), DIM)))
    trainer = Trainer(config, load(config.data, print), torch.device("cpu"))
    model = trainer.model
    assert isinstance(model, Supervised)
    batch = next(trainer.batches.epoch(0))
    expected = F.cross_entropy(model.query(batch.query_view_B3SS), batch.labels_B).item()
    trainer.take_step(batch)
    assert float(trainer.meter.sums["loss"]) == pytest.approx(expected, rel=1e-5)


def test_supcon_with_unique_labels_is_simclr() -> None:
    losses = []
    for positives in ("own", "label"):
        config = small(methods.simclr(), 1, Head((), DIM))
        config = replace(config, loss=replace(config.part(InfoNCE), positives=positives))
        trainer = Trainer(config, load(config.data, print), torch.device("cpu"))
        batch = next(trainer.batches.epoch(0))
        trainer.take_step(replace(batch, labels_B=torch.arange(BATCH)))
        losses.append(
            [float(trainer.meter.sums["loss"]), *(float(p.detach().sum()) for p in trainer.model.parameters())]
        )
    assert losses[0] == losses[1]


@pytest.mark.parametrize("method", ["moco_v1", "memory_bank", "moco_v2plus"])
def test_accumulated_parts_equal_the_whole_batch(method: str) -> None:
    """Queue and key encoder move once per step (rel 1e-5): lightly-train's issues 973 and 974 are what happens otherwise."""
    states = []
    for accumulate in (1, 2):
        config = small(getattr(methods, method)(), 4, Head((), DIM))
        if isinstance(config.negatives, Queue | MemoryBank):
            config = replace(config, negatives=replace(config.negatives, size=40))
        config = replace(config, train=replace(config.train, accumulate=accumulate))
        trainer = Trainer(config, load(config.data, print), torch.device("cpu"))
        trainer.model.double()
        for batch in list(trainer.batches.epoch(0))[:5]:
            trainer.take_step(in_double(batch))
        states.append(trainer.model.state_dict())
    for name, whole in states[0].items():
        statistics_of_both_views = method == "moco_v2plus" and "running" in name and "query" in name
        if "num_batches" not in name and not statistics_of_both_views:  # there, the order of the views is another
            torch.testing.assert_close(states[1][name], whole, rtol=1e-5, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
