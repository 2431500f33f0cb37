"""The peers do the same arithmetic as our trainer: a benchmark between steps that differ would say nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from moco import config as c
from moco.config import Config, ViT
from moco.data.loader import Batch
from moco.methods import moco_v3_vit
from moco.trainer import Trainer
from tests.benchmarks.ceiling import arithmetic_share
from tests.benchmarks.plain import PlainMoCo, PlainMoCoV3
from tests.benchmarks.result import Options
from tests.benchmarks.suite import train
from tests.benchmarks.suite.step import cases, narrow, of_case, random_views, unreal

SMALL = {"narrow": 1, "resnet18": 0, "resnet50": 0, "vit_small": 0, "batch": 8, "compile": 0, "graphs": 0}


def first_loss(config: Config, views: tuple[Tensor, Tensor]) -> tuple[Trainer, float]:
    """The trainer as it was before the step whose loss this is."""
    trainers = [Trainer(config, unreal(config), torch.device("cpu")) for _ in range(2)]
    indices_B = torch.arange(len(views[0]))
    trainers[0].take_step(Batch(0, indices_B, indices_B * 0, *views, slice(0, len(indices_B))))
    return trainers[1], float(trainers[0].meter.sums["loss"])


def test_the_plain_step_is_our_step() -> None:
    config = replace(narrow(8).config, train=replace(narrow(8).config.train, device="cpu"))
    views = random_views(config, "cpu")
    trainer, ours = first_loss(config, views)
    query = nn.Sequential(trainer.model.query.encoder, trainer.model.query.head)
    plain = PlainMoCo(query, 128, 1_024, 0.999, config.part(c.InfoNCE).temperature)
    source = next(module for name, module in trainer.model.named_modules() if name.endswith("sources.0"))
    plain.queue_CK = source.keys_KC.T.clone()
    logits_BN = plain(*views)
    plain_loss = torch.nn.functional.cross_entropy(logits_BN, torch.zeros(8, dtype=torch.int64))
    assert plain_loss.item() == pytest.approx(ours, rel=1e-5)


def test_the_plain_v3_step_is_our_step() -> None:
    base = moco_v3_vit()
    config = replace(
        base,
        data=c.Data(name="digits", image_size=32),
        encoder=ViT(width=48, depth=2, heads=3, patch=8),
        train=replace(base.train, batch_size=8, device="cpu"),
    )
    views = random_views(config, "cpu")
    trainer, ours = first_loss(config, views)
    query = nn.Sequential(trainer.model.query.encoder, trainer.model.query.head)
    plain = PlainMoCoV3(query, trainer.model.predictor, 0.99, config.part(c.InfoNCE).temperature)
    loss = plain(*views)
    # The plain loss is 2 T times the sum of two directions (v3, algorithm 1), ours `scale` times their mean.
    assert loss.item() / (4 * plain.temperature) == pytest.approx(ours / trainer.model.scale, rel=1e-5)


@pytest.mark.parametrize("batch", [4, 6, 16, 25])
def test_the_plain_queue_holds_the_newest_keys(batch: int) -> None:
    """Whether or not the batch divides the queue of 16, or is larger."""
    plain, said = PlainMoCo(nn.Linear(3, 2), 2, 16, 0.9, 0.1), torch.zeros(0, 2)
    for step in range(9):
        keys_BC = torch.arange(batch * 2.0).view(batch, 2) + 1000 * step
        plain.enqueue(keys_BC)
        said = torch.cat([said, keys_BC])
    assert sorted(plain.queue_CK[0].tolist()) == sorted(said[-16:, 0].tolist())
    oldest = plain.queue_CK[0].roll(-plain.pointer)
    assert oldest.tolist() == said[-16:, 0].tolist()


def test_a_result_names_what_was_measured() -> None:
    options = Options(rounds=1, settings=SMALL)
    (case,) = cases(options)
    eager, best = of_case(case, options)
    assert eager.name == "narrow ResNet, 32 px, eager"
    assert best.ratio == eager.ratio  # nothing was compiled: the best mode is an eager one
    assert eager.ratio == pytest.approx(eager.ours / eager.peer)
    assert any("with all else free" in note for note in eager.notes)


def test_the_share_of_arithmetic_is_that_of_its_operators() -> None:
    """A product of N x N matrices is 2 N^3 operations, a sum N^2: nearly all of the time, or none of it."""
    a = torch.randn(512, 512)
    assert arithmetic_share(lambda: (a @ a).sum().item(), "cpu") > 0.8
    assert arithmetic_share(lambda: a.exp().sum().item(), "cpu") == 0.0


def test_a_training_of_both_sides_sees_the_same_images() -> None:
    """1,293 digits to train on: ten batches of 128 an epoch. The trainer counts its steps, the peer's loader its batches."""
    asked = Options(rounds=1, settings={"epochs": 1, "batch": 128, "compile": 0})
    config = train.recipe(asked)
    waits = train.whole(config)
    assert len(waits) == 1  # a record every ten steps
    assert 0.0 < waits[0] < 1.0
    pictures = [train.to_pil(image) for image in train.pre_training_images(config)]
    seen: list[int] = []
    steps = train.peer_loop(config, pictures, asked, step_of=lambda *_: lambda query, key: seen.append(len(query)))
    steps()
    assert seen == [128] * 10
