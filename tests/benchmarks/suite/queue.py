"""The time of a training step against the length of the queue K."""

from __future__ import annotations

from dataclasses import replace

import torch

from experiments.plan.registry import baseline_config
from moco.config import Queue
from moco.data import load
from moco.trainer import Trainer
from tests.benchmarks.growth import grows
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result
from tests.benchmarks.rounds import Contender, clock_of, interleave

DOUBLINGS = (1, 2, 4, 8)


@benchmark(
    "the time of a MoCo step on the shapes against the length of the queue",
    {"keys": 256, "steps": 4},
    obeys=("device", "threads"),
)
def run(options: Options) -> list[Result]:
    sizes = [options.whole("keys") * factor for factor in DOUBLINGS]
    contenders = [Contender(str(size), Steps(size, options), options.whole("steps")) for size in sizes]
    measured = interleave(contenders, options.rounds, clock_of(options.device))
    points = [(float(size), 1 / measured.rate(str(size))) for size in sizes]
    return [grows("step time against K", points, "seconds", options)]


class Steps:
    """A turn: some steps of a run whose queue holds `size` keys, on the same batch each time."""

    def __init__(self, size: int, options: Options) -> None:
        base = baseline_config("shapes")
        config = replace(base, negatives=Queue(size), train=replace(base.train, device=options.device))
        self.trainer = Trainer(config, load(config.data, lambda said: None), torch.device(options.device))
        self.batch, self.steps = next(self.trainer.batches.epoch(0)), options.whole("steps")

    def __call__(self) -> None:
        for _ in range(self.steps):
            self.trainer.take_step(self.batch)
