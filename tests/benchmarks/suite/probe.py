"""A linear probe on features computed once, many settings together, against every epoch through the frozen backbone.

Both train on the digits for as many epochs; the peer is timed over its first few (they cost the same), its accuracy is that
of all of them. lightly runs the recipe of its own script, with crops drawn anew and a validation pass in every epoch. The
plain peer is spared both: normalised images in memory, no validation. Its accuracy comes from features taken once, for
frozen backbone and unchanged images make the same classifier.

N images, B batch, D features, C classes, S side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from experiments.plan.registry import baseline_config
from moco.augment import normalise
from moco.config import Augment
from moco.data import load
from moco.data.splits import ImageData, Split
from moco.evaluation.features import Labelled, labelled
from moco.evaluation.linear_probe import GRID, Pair, linear_probe
from moco.evaluation.scores import score
from moco.randomness import generator
from moco.trainer import Trainer
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result, compared
from tests.benchmarks.rounds import Contender, clock_of, interleave
from tests.benchmarks.suite.augment import to_pil

PEER_LR = 0.1  # for a batch of 256, which is lightly's default; the authors' 30 is for ImageNet features
MOMENTUM = 0.9


@dataclass(frozen=True)
class Task:
    """A frozen backbone and what it is probed with."""

    data: ImageData
    recipe: Augment
    backbone: nn.Module
    dim: int
    device: str

    def features(self) -> tuple[Labelled, Labelled]:
        train, validation = (
            labelled(self.backbone, split, self.recipe, self.device)
            for split in (self.data.train, self.data.validation)
        )
        return train, validation

    def test_top1(self, scores: Callable[[Tensor], Tensor]) -> float:
        test = labelled(self.backbone, self.data.test, self.recipe, self.device)
        top1 = score(scores(test.features_ND), test.labels_N).top1
        assert top1 is not None, "no test images"
        return top1


@benchmark(
    "a linear probe on the digits: 48 settings at once, then one, against one setting through the backbone",
    {"side": 32, "pretrain_epochs": 5, "epochs": 100, "timed_epochs": 5, "batch": 256},
    least={"pretrain_epochs": 0},
)
def run(options: Options) -> list[Result]:
    task = pretrained(options)
    timed = options.whole("timed_epochs")
    peer = Contender(options.against, lambda: through_backbone(task, options, timed), timed)
    top1, single = task.test_top1(peer_to_the_end(task, options)), (Pair(PEER_LR, 0.0),)
    return [
        against_backbone(task, peer, top1, GRID, f"{len(GRID)} settings", 15.0, options),
        against_backbone(task, peer, top1, single, "one setting", 100.0, options),
    ]


def against_backbone(
    task: Task, peer: Contender, top1: float, pairs: tuple[Pair, ...], name: str, wanted: float, options: Options
) -> Result:
    """`top1`: the peer's."""
    ours = Contender("ours", lambda: probe(task, pairs, options), options.whole("epochs"))
    measured = interleave([ours, peer], options.rounds, clock_of(options.device))
    notes = accuracies(task.test_top1(probe(task, pairs, options)), top1, options)
    return compared(
        f"linear probe, {name}",
        measured,
        "ours",
        peer.name,
        "epochs",
        options,
        wanted=wanted,
        notes=notes,
        pairs=len(pairs),
    )


def pretrained(options: Options) -> Task:
    """A MoCo encoder of the digits after a few epochs: real features, in seconds."""
    base = baseline_config("digits")
    config = replace(
        base,
        data=replace(base.data, image_size=options.whole("side")),
        train=replace(base.train, epochs=max(1, options.whole("pretrain_epochs")), device=options.device),
    )
    data = load(config.data, lambda said: None)
    trainer = Trainer(config, data, torch.device(options.device))
    for epoch in range(options.whole("pretrain_epochs")):
        for batch in trainer.batches.epoch(epoch):
            trainer.take_step(batch)
    backbone = trainer.model.query.encoder.eval().requires_grad_(False)
    return Task(data, config.augment, backbone, backbone.feature_dim, options.device)


def probe(task: Task, pairs: tuple[Pair, ...], options: Options) -> Callable[[Tensor], Tensor]:
    """Features of two splits, then all pairs together; the scores of the one that is best on the validation split."""
    train, validation = task.features()
    return linear_probe(train, validation, len(task.data.classes), options.whole("epochs"), 0, pairs).scores


def through_backbone(task: Task, options: Options, epochs: int) -> nn.Module:
    """The peer's classifier after `epochs`."""
    train, batch, classes = task.data.train, options.whole("batch"), len(task.data.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if options.against == "lightly":
            return lightly_linear(task, epochs, batch)
        images_NCSS = normalise(pixels(train).to(task.device), task.recipe)
        labels_N = train.labels_N.to(task.device)
        return plain_linear(task.backbone, images_NCSS, labels_N, task.dim, classes, epochs, epochs, batch)


def lightly_linear(task: Task, epochs: int, batch: int) -> nn.Module:
    from tests.benchmarks.peers.lightly_readouts import linear

    train, validation = (
        ([to_pil(image) for image in pixels(split)], split.labels_N.tolist())
        for split in (task.data.train, task.data.validation)
    )
    side, classes = pixels(task.data.train).shape[-1], len(task.data.classes)
    backbone = copy.deepcopy(task.backbone)  # lightning leaves what it trained on the CPU
    return linear(backbone, train, validation, side, task.recipe, task.dim, classes, epochs, batch, PEER_LR)


def pixels(split: Split) -> Tensor:
    """uint8 (N, 3, S, S)."""
    return split.images.take(torch.arange(len(split)))


def plain_linear(
    backbone: nn.Module, images_NCSS: Tensor, labels_N: Tensor, dim: int, classes: int, epochs: int, of: int, batch: int
) -> nn.Module:
    """The usual loop, and lightly's recipe: SGD with momentum, cosine over `of` epochs, the rate scaled with the batch."""
    head = nn.Linear(dim, classes).to(labels_N.device)
    optimiser = torch.optim.SGD(head.parameters(), lr=PEER_LR * batch / 256, momentum=MOMENTUM)
    steps = -(-len(labels_N) // batch)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, of * steps)
    for epoch in range(epochs):
        order_N = torch.randperm(len(labels_N), generator=generator("cpu", "benchmark", "probe", epoch))
        for rows_B in order_N.to(labels_N.device).split(batch):
            with torch.no_grad():
                features_BD = backbone(images_NCSS[rows_B])
            loss = nn.functional.cross_entropy(head(features_BD), labels_N[rows_B])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cosine.step()
    return head


def accuracies(ours: float, peer: float, options: Options) -> tuple[str, ...]:
    same = "as good or better" if ours >= peer else "WORSE"
    return (
        f"test top-1 after {options.whole('epochs')} epochs: ours {ours:.1f} %, peer's recipe {peer:.1f} %: {same}",
    )


def peer_to_the_end(task: Task, options: Options) -> Callable[[Tensor], Tensor]:
    """All epochs of the peer's recipe; the plain one's on features."""
    if options.against == "lightly":
        return logits(through_backbone(task, options, options.whole("epochs")))
    train, _ = task.features()
    epochs, classes = options.whole("epochs"), len(task.data.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = plain_linear(
            nn.Identity(), train.features_ND, train.labels_N, task.dim, classes, epochs, epochs, options.whole("batch")
        )
    return logits(head)


def logits(head: nn.Module) -> Callable[[Tensor], Tensor]:
    def scores(features_ND: Tensor) -> Tensor:
        with torch.no_grad():
            logits_NC: Tensor = head(features_ND)
        return logits_NC

    return scores
