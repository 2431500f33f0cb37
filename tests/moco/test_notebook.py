"""`cifar10_moco_v1` is the authors' CIFAR-10 notebook: initial weights, both losses, step by step, against a plain program."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain

import pytest
import torch
from torch import nn

from experiments.plan.baselines_published import cifar10_moco_v1, cifar10_moco_v3
from experiments.plan.overrides import apply
from experiments.plan.registry import baseline_config
from moco.config import Config, Data, Queue, ResNet
from moco.config.plain import run_id
from moco.data import load
from moco.encoders import build_encoder
from moco.methods import notebook_symmetric
from moco.model import build_query, seeded
from moco.randomness import generator, seed_of
from moco.trainer import Trainer
from tests.oracles import notebook

STEPS, PER_EPOCH, EPOCHS, BATCH, PARTS, QUEUE = 8, 3, 3, 8, 4, 48


def small() -> Config:
    """The recipe on 9-pixel digits, with four parts of BatchNorm and three epochs of three steps; all else as it is.

    With fewer pixels the last blocks normalise two numbers, and rounding grows a thousandfold each step.
    """
    config = cifar10_moco_v1()
    assert (config.part(ResNet).batch_norm_splits, config.part(Queue).size) == (8, 4096)
    return replace(
        config,
        data=Data(name="digits", image_size=9),
        encoder=replace(config.part(ResNet), batch_norm_splits=PARTS),
        negatives=replace(config.part(Queue), size=QUEUE),
        train=replace(config.train, epochs=EPOCHS, batch_size=BATCH, device="cpu"),
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_eight_steps_equal_the_notebook_with_weights_that_each_has_drawn(symmetric: bool) -> None:
    """In float64, so that 1e-6 means something. A queue of 48 that 16 keys a step go round."""
    config = notebook_symmetric(small()) if symmetric else small()
    trainer = Trainer(config, load(config.data, print), torch.device("cpu"))
    trainer.batches.steps_per_epoch, trainer.total_steps = PER_EPOCH, PER_EPOCH * EPOCHS
    trainer.model.double()
    seed = config.train.seed
    with torch.random.fork_rng(devices=[]):
        net = notebook.network(PARTS, 128, seed_of(seed, "encoder"), seed_of(seed, "head")).double()
    plain = notebook.Notebook(net, trainer.model.source(0).keys_KC)
    batches = chain.from_iterable(trainer.batches.epoch(epoch) for epoch in range(EPOCHS))
    for step in range(STEPS):
        batch = next(batches)
        views = batch.query_view_B3SS.double(), batch.key_view_B3SS.double()
        keys = [("shuffle", step), ("shuffle", step, 1)][: 2 if symmetric else 1]
        orders = [torch.randperm(BATCH, generator=generator("cpu", seed, *key)) for key in keys]
        expected = plain.step(views, orders, notebook.rate(step // PER_EPOCH + 1, EPOCHS))
        trainer.take_step(replace(batch, query_view_B3SS=views[0], key_view_B3SS=views[1]))
        assert float(trainer.meter.sums.pop("loss")) == pytest.approx(expected, rel=1e-6), f"step {step}"
    assert len(trainer.model.sources) == 1
    torch.testing.assert_close(trainer.model.source(0).keys_KC, torch.stack(plain.queue), rtol=1e-6, atol=1e-8)
    for mine, theirs in ((trainer.model.query, plain.query), (trainer.model.key, plain.key)):
        tensors = [t for t in mine.state_dict().values() if t.is_floating_point()]
        expected = [t for t in theirs.state_dict().values() if t.is_floating_point()]
        assert len(tensors) == 20 * 5 + 2
        for tensor, other in zip(tensors, expected, strict=True):
            torch.testing.assert_close(tensor, other, rtol=1e-6, atol=1e-8)


def closed_form(name: str, layer: nn.Module) -> float:
    """Standard deviation: uniform in +- 1 / sqrt(inputs) for what torch initialises, else normal, 2 / outputs the variance."""
    if isinstance(layer, nn.Linear):
        return 1 / math.sqrt(3 * layer.in_features)
    assert isinstance(layer, nn.Conv2d)
    taps = math.prod(layer.kernel_size)
    return (
        1 / math.sqrt(3 * layer.in_channels * taps) if name == "conv1" else math.sqrt(2 / (layer.out_channels * taps))
    )


def deviations(nets: list[dict[str, nn.Module]]) -> dict[str, float]:
    """Of all weights of a layer over the networks, over the closed form. BatchNorms begin with 1 and 0."""
    found = {}
    for name, layer in nets[0].items():
        if name == "head.0":  # by its other name
            continue
        if isinstance(layer, nn.BatchNorm2d):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            drawn = torch.cat([net[name].weight.detach().flatten() for net in nets])  # type: ignore[union-attr]
            found[name] = float(drawn.std() / closed_form(name, layer))
    return found


def test_the_standard_deviation_of_every_layer_is_the_notebooks() -> None:
    """Within 1 %, and so is that of what torchvision draws for the notebook: .111 in the first convolution, not .059."""
    config, ours, theirs = cifar10_moco_v1(), [], []
    for seed in range(6):
        query = build_query(replace(config, train=replace(config.train, seed=seed)), classes=0)
        layers = {name.removeprefix("encoder.backbone."): layer for name, layer in query.named_modules()}
        ours.append({**layers, "fc": layers["head.0"]})
    for seed in range(6):
        with torch.random.fork_rng(devices=[]):
            theirs.append(dict(notebook.network(PARTS, 128, 100 + seed, 200 + seed).named_modules()))
    mine, plain = deviations(ours), deviations(theirs)
    assert mine.keys() == plain.keys()
    assert len(mine) == 21
    assert mine == pytest.approx(dict.fromkeys(mine, 1.0), abs=0.01)
    assert plain == pytest.approx(dict.fromkeys(plain, 1.0), abs=0.01)
    old = build_query(replace(config, encoder=replace(config.part(ResNet), stem_init="he")), classes=0)
    first = next(layer for layer in old.modules() if isinstance(layer, nn.Conv2d))
    assert float(first.weight.detach().std()) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)


@pytest.mark.parametrize("depth", [8, 18])
@pytest.mark.parametrize(("stem", "side"), [("small", 10), ("strided", 5), ("padded", 12)])
def test_stems_differ_in_the_border_and_the_stride_of_one_convolution(depth: int, stem: str, side: int) -> None:
    """`padded` is solo-learn's: torch's convolution of the image with a border of two pixels."""
    config = ResNet(depth=depth, stem=stem, width=64, stem_init="torch")  # type: ignore[arg-type]
    with seeded(3):
        first = next(layer for layer in build_encoder(config).modules() if isinstance(layer, nn.Conv2d))
    images = torch.randn(2, 3, 10, 10, generator=generator("cpu", "stem"))
    border = {"padded": 2}.get(stem, 1)
    plain = nn.functional.conv2d(nn.functional.pad(images, [border] * 4), first.weight)
    expected = plain[..., ::2, ::2] if stem == "strided" else plain
    torch.testing.assert_close(first(images), expected)
    assert first(images).shape[-1] == side
    assert float(first.weight.detach().abs().max()) <= 1 / math.sqrt(27)  # uniform


def test_an_imagenet_stem_can_have_torchs_weights_too() -> None:
    with seeded(3):
        first = next(
            m for m in build_encoder(ResNet(depth=18, stem_init="torch")).modules() if isinstance(m, nn.Conv2d)
        )
    assert float(first.weight.detach().std()) == pytest.approx(1 / math.sqrt(3 * 147), rel=0.02)
    assert float(first.weight.detach().abs().max()) <= 1 / math.sqrt(147)


def test_the_other_quoted_networks_are_those_of_their_code() -> None:
    """solo-learn's methods/base.py and cifar/mocov3.yaml: a border of two, torch's weights, eta 0.02 and clipped, no zeros."""
    v3 = cifar10_moco_v3()
    assert v3.encoder == ResNet(depth=18, stem="padded", stem_init="torch")
    assert (v3.optim.trust, v3.optim.adaptation, v3.train.precision) == (0.02, "clipped", "fp16")  # type: ignore[union-attr]


FORMER = {
    "cifar10_moco_v1": ("ea683baede46a54b", "encoder.stem_init=he encoder.batch_norm_parts=contiguous"),
    "cifar10_moco_v2plus": (
        "756dc6a817c3e98b",
        "encoder.stem=small encoder.stem_init=he train.precision=fp32",
    ),
    "cifar10_supcon": (
        "f75450bd101916aa",
        "encoder.stem=small encoder.stem_init=he train.precision=fp32 loss.several=outside",
    ),
    "cifar10_moco_v3": (
        "1859d85ef64afba4",
        "encoder.stem=small encoder.stem_init=he train.precision=fp32 encoder.zero_init_residual=true "
        "optim.trust=0.001 optim.adaptation=joint",
    ),
    "imagenet_moco_v3_resnet50": ("16a45bbf44ab5c7b", "train.precision=fp32"),
    "imagenet_moco_v3_vit_small": ("49f5374ed4f71d7e", "train.precision=fp32"),
    "imagenet_moco_v3_vit_base": ("af393c2b631d054d", "train.precision=fp32"),
}


@pytest.mark.parametrize("name", FORMER)
def test_what_a_corrected_baseline_was_is_a_value_of_its_fields(name: str) -> None:
    """The identity that runs of before have, as tests/fixtures/identities.json held it; CHANGELOG.md has the settings."""
    identity, settings = FORMER[name]
    assert run_id(apply(baseline_config(name), settings.split())) == identity
