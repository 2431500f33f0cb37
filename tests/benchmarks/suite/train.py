"""A whole small training: order, views, steps and records, against a peer's loop over a DataLoader.

The digits at 32 pixels, v2's views, the narrow ResNet: same batch, same epochs on both sides. Ours reads
the data set and builds its networks in every turn, the peer its networks; neither writes a checkpoint, and ours ends before
its readouts, which the peer does not have. The peer's loader has one process: on a GPU, where the wall clock counts, divide by
the workers that you would give it. S side, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moco import config as c
from moco.data import load
from moco.train import Record, train
from tests.benchmarks.plain import Step
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result, compared
from tests.benchmarks.rounds import Contender, clock_of, interleave
from tests.benchmarks.suite.augment import Views, collate, peer_views, to_pil
from tests.benchmarks.suite.step import narrow, peer_step


@benchmark(
    "images through whole epochs of a digits-sized training: data, steps and bookkeeping",
    {"epochs": 2, "batch": 128, "compile": 0},
    least={"compile": 0},
)
def run(options: Options) -> list[Result]:
    config = recipe(options)
    pictures = [to_pil(image) for image in pre_training_images(config)]
    images = options.whole("epochs") * (len(pictures) // config.train.batch_size) * config.train.batch_size
    turns: dict[str, Callable[[], object]] = {"ours": lambda: whole(config)}
    if options.whole("compile"):
        compiled = replace(config, train=replace(config.train, compile=True))
        turns["ours, compiled"] = lambda: whole(compiled)
    turns[options.against] = peer_loop(config, pictures, options)
    measured = interleave(
        [Contender(name, turn, images) for name, turn in turns.items()], options.rounds, clock_of(options.device)
    )
    notes = (f"eager, ours waits for its data {median(whole(config)):.0%} of the time; on a CPU it renders views then",)
    return [
        compared(f"training, {name}", measured, name, options.against, "images", options, wanted=3.5, notes=notes)
        for name in list(turns)[:-1]
    ]


def recipe(options: Options) -> c.Config:
    config = narrow(options.whole("batch")).config
    train_ = replace(config.train, epochs=options.whole("epochs"), device=options.device)
    return replace(config, train=train_, evaluation=replace(config.evaluation, knn_every=0))


def pre_training_images(config: c.Config) -> Tensor:
    """uint8 (N, 3, S, S)."""
    split = load(config.data, _quiet).pretrain
    return split.images.take(torch.arange(len(split)))


def _quiet(line: str) -> None:
    """A benchmark's numbers are all that it prints."""


def whole(config: c.Config) -> list[float]:
    """To the last step's record; the share of time waiting for data, of each record."""
    waits: list[float] = []
    with TemporaryDirectory() as folder:
        for record in train(config, Path(folder)):
            if isinstance(record, Record):
                waits += [record.values["speed/data_wait"]] if "speed/data_wait" in record.values else []
                if record.epoch >= config.train.epochs:
                    break
    return waits


class Pictures(Dataset[list[Tensor]]):
    """One image at a time, as two views."""

    def __init__(self, pictures: list[Image.Image], views: Views) -> None:
        self.pictures, self.views = pictures, views

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.views(self.pictures[index])


def peer_loop(
    config: c.Config, pictures: list[Image.Image], options: Options, step_of: Callable[..., Step] = peer_step
) -> Callable[[], None]:
    """In this process, so that its clock sees all of it."""
    views = peer_views(options.against, config.data.image_size)
    loader = DataLoader(
        Pictures(pictures, views),
        config.train.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=lambda both: collate(both, options.device),
    )

    def turn() -> None:
        step = step_of(config, options.against, options.device)
        for _ in range(config.train.epochs):
            for query_view_B3SS, key_view_B3SS in loader:
                step(query_view_B3SS, key_view_B3SS)

    return turn
