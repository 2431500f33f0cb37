"""Seconds of a run by timing a few of its steps: for a dry-run of a folder that no run has measured. Writes nothing.

Steps run on random pixels of the right size, so that nothing has to be decoded first; what decoding costs is timed on a few
files of the folder. Takes some seconds, most of them the start of a process with torch. `--calibrate` times more steps, on the
images themselves, and keeps what it found.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.launch.estimate import work
from experiments.launch.process import Starter, Work
from experiments.plan.configs import config_of, create
from experiments.plan.proposal import settings
from experiments.plan.sweep import Cell
from experiments.store.files import replace_json
from experiments.store.run import RunDirectory
from experiments.store.schema import PACE
from moco.config import Config, ResNet
from moco.data.catalog import training_images

LIMIT_SECONDS = 60.0  # then it is given up
WORTH_IT = 0.7  # of the time: a choice that takes more is no cheaper one
LEAST_EPOCHS = 10


@dataclass(frozen=True)
class Pace:
    """`step`: seconds of one. `decode`: seconds to decode one image, in one thread."""

    step: float
    decode: float

    def of_run(self, config: Config, timed: Config) -> float:
        """Seconds of a run whose steps are those of `timed` but for the size of the batch; readouts are not counted."""
        steps = self.step * config.train.batch_size / timed.train.batch_size * work(config)
        images = training_images(config.data)
        views = images if not config.data.stream else config.train.epochs * images
        return steps + self.decode * views


def measure(path: str) -> None:
    """Time the config in the folder `path`; called in a process of its own."""
    from moco.pace import decode_seconds, step_seconds

    folder = Path(path)
    config = config_of(RunDirectory(folder))
    replace_json(folder / PACE, {"step": step_seconds(config), "decode": decode_seconds(config)})


def paces(configs: Sequence[Config], environment: Mapping[str, str]) -> list[Pace | None]:
    """Of each config, in a process with that environment (a slot's: its threads or GPU). None for one that cannot be timed."""
    starter, found = Starter(Work(measure, preload=("moco.trainer",))), []
    with TemporaryDirectory() as place:
        for number, config in enumerate(configs):
            folder = Path(place) / str(number)
            create(RunDirectory(folder), config)
            child = starter.start((str(folder),), environment, folder / "log", wanted=lambda: True)
            assert child is not None
            deadline = time.monotonic() + LIMIT_SECONDS
            try:
                while child.is_alive() and time.monotonic() < deadline:
                    time.sleep(0.05)
            finally:
                child.kill()
            file = folder / PACE
            found.append(Pace(**json.loads(file.read_text())) if file.exists() else None)
    return found


@dataclass(frozen=True)
class Timed:
    """Seconds of all cells on the slots, and of the cheaper choice with what `--set` must say for it."""

    seconds: float
    cheaper: str | None = None
    cheaper_seconds: float | None = None


def timed(cells: Sequence[Cell], slots: int, environment: Mapping[str, str]) -> Timed | None:
    """By the steps of the first cell that trains; None if none does, or if they could not be timed."""
    first = next((cell.config for cell in cells if cell.config.train.epochs), None)
    if first is None:
        return None
    other = smaller(first)
    own, smaller_pace = (*paces([first, *([other] if other else [])], environment), None)[:2]
    if own is None:
        return None
    share = min(slots, len(cells))
    seconds = sum(own.of_run(cell.config, first) for cell in cells) / share
    if other is not None and smaller_pace is not None:
        ratio = smaller_pace.of_run(other, other) / own.of_run(first, first)
        if ratio < WORTH_IT:
            return Timed(seconds, " ".join(settings(other, first)), seconds * ratio)
    epochs = first.train.epochs // 2
    if epochs < LEAST_EPOCHS:
        return Timed(seconds)
    half = replace(first, train=replace(first.train, epochs=epochs))
    return Timed(seconds, f"train.epochs={epochs}", seconds * own.of_run(half, half) / own.of_run(first, first))


def smaller(config: Config) -> Config | None:
    """The same with ResNet-8 of width 16 at 32 pixels; None if it is no larger ResNet."""
    encoder = config.encoder
    if not isinstance(encoder, ResNet):
        return None
    side = min(32, config.data.image_size)
    try:
        small = replace(encoder, depth=8, width=16, stem="strided")
        found = replace(config, encoder=small, data=replace(config.data, image_size=side))
    except ValueError:  # a variant that has no such depth
        return None
    return found if found != config and encoder.depth >= 8 and encoder.width >= 16 else None
