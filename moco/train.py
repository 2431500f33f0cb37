"""The loop: a resumable generator. It yields numbers; the caller writes them down, and decides when to stop.

A checkpoint is written only after everything yielded before it has been taken by the caller, so a caller that writes each
record before asking for the next loses none. Resume is the same call. The last two checkpoints are kept: a damaged one is
passed over with a warning, and without a sound one the run starts afresh. The final readouts stop and go on as the steps do.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from moco import checkpoint, distributed
from moco.config import Config
from moco.config.plain import run_id, to_plain
from moco.data import load
from moco.data.catalog import check_labels
from moco.data.loader import Batch
from moco.data.seen import Seen
from moco.data.splits import ImageData
from moco.errors import Diverged
from moco.evaluation.pauses import Progress, Stopped
from moco.evaluation.readouts import curves, final_values, validation_values
from moco.speed import Way, asked
from moco.trainer import Trainer, choose_device, settled, uncompiled

CHECKPOINT, PREVIOUS, ENCODER = "checkpoint.pt", "checkpoint.previous.pt", "encoder.pt"
IMAGES = "images.json"
READOUTS = "readouts.pt"  # of final readouts that were stopped: what they had
__all__ = ["CHECKPOINT", "ENCODER", "PREVIOUS", "READOUTS", "Diverged", "Paused", "Record", "Resumed", "train"]


LOGGER = logging.getLogger("moco")


@dataclass(frozen=True)
class Record:
    """Numbers after `step` steps. Keys are grouped by slash; a repeated key at the same step replaces the earlier one."""

    step: int
    epoch: float
    values: dict[str, float]


@dataclass(frozen=True)
class Resumed:
    """Training goes on after `step`: records of later steps that an earlier attempt left are void."""

    step: int


@dataclass(frozen=True)
class Paused:
    """The run was asked to stop and is saved after `step`, which may be later than the last record.

    `readouts`: parts and epochs of its final readouts that are kept, of all attempts together; None if they were not begun.
    """

    step: int
    epoch: float
    readouts: int | None = None


def never() -> bool:
    return False


def train(
    config: Config, run_dir: Path, stop: Callable[[], bool] = never, way: Way | None = None
) -> Iterator[Record | Resumed | Paused]:
    """Train, evaluate, leave `encoder.pt`, and `images.json` for a set of image files (`moco.data.seen`).

    `stop` is asked after each step, and between the parts and epochs of the final readouts: True saves and ends the
    iteration early.

    In each of a run's several processes (`moco.distributed.group`) it yields the same, and `stop` must give the same answer
    (`moco.distributed.agree`); rank 0 writes the files.

    Raises ValueError for data or a checkpoint that do not fit the config, Diverged when the loss stops being finite. A damaged
    checkpoint raises nothing: the one before it is taken, with a warning, or the run starts afresh.
    """
    started = time.monotonic()
    check_labels(config)
    data = load(config.data, LOGGER.warning)
    if data.seen is not None and distributed.rank() == 0:
        write_images(run_dir / IMAGES, data.seen)
    here = (way.of(config) if way else settled(config, len(data.pretrain))).train
    trainer = Trainer(config, data, choose_device(here.device), asked(here))
    kept = run_dir / CHECKPOINT, run_dir / PREVIOUS
    if distributed.agree(any(map(os.path.lexists, kept))):  # a shared disk may show it here later than there
        if not checkpoint.load_newest(kept, trainer.load_state_dict, trainer.device):
            LOGGER.warning("%s: none of its checkpoints is sound; the run starts afresh", run_dir)
            trainer = Trainer(
                config, data, trainer.device, asked(here)
            )  # the other may have taken a part of a damaged state
        if distributed.agree(trainer.step != distributed.from_first(trainer.step)):
            raise ValueError(f"{run_dir}: its processes read different checkpoints; start it again")
        yield Resumed(trainer.step)
    loop = _Loop(trainer, data, run_dir / CHECKPOINT, stop)
    loop.setup_seconds = time.monotonic() - started
    yield from loop.run()
    if trainer.step == trainer.total_steps:
        yield from loop.finish(run_dir / ENCODER)


def write_images(path: Path, seen: Seen) -> None:
    """What happened to the image files, as JSON; whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(seen.plain(), indent=1) + "\n")
    temporary.replace(path)


@dataclass
class _Stopwatch:
    """Where the time since the last record went, in seconds."""

    waited: float = 0.0
    images: int = 0
    since: float = field(default_factory=time.monotonic)

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            self.images += len(batch.indices_B)
            yield batch

    def lap(self) -> tuple[float, dict[str, float]]:
        """Seconds since the last lap, and the rates. Call after the device has been waited for."""
        seconds = max(time.monotonic() - self.since, 1e-9)
        rates = {"speed/images_per_s": self.images / seconds, "speed/data_wait": self.waited / seconds}
        self.restart()
        return seconds, rates

    def restart(self) -> None:
        self.waited, self.images, self.since = 0.0, 0, time.monotonic()


class _Loop:
    """Steps, records, evaluations and checkpoints in their one order."""

    def __init__(self, trainer: Trainer, data: ImageData, path: Path, stop: Callable[[], bool]) -> None:
        self.trainer, self.data, self.path, self.stop = trainer, data, path, stop
        self.watch, self.saved_at, self.setup_seconds, self.evaluation_seconds = (
            _Stopwatch(),
            time.monotonic(),
            0.0,
            0.0,
        )
        self.stopped = False

    def run(self) -> Iterator[Record | Paused]:
        trainer = self.trainer
        while trainer.step < trainer.total_steps and not self.stopped:
            first = trainer.step % trainer.batches.steps_per_epoch
            for batch in self.watch.timed(trainer.batches.epoch(trainer.epoch, first)):
                due = trainer.record_due
                trainer.take_step(batch)
                if due:
                    yield self.record()
                yield from self.evaluate_when_due()
                self.stopped = self.stop()
                if self.stopped or self.checkpoint_due():
                    self.save()
                if self.stopped:
                    yield self.paused()
                    return

    def record(self) -> Record:
        values = self.trainer.record()  # waits for the device, so that the lap below is honest
        seconds, rates = self.watch.lap()
        self.trainer.seconds += seconds
        return self._record(values | rates)

    def _record(self, values: dict[str, float]) -> Record:
        return Record(self.trainer.step, self.epoch, values)

    def paused(self, readouts: int | None = None) -> Paused:
        return Paused(self.trainer.step, self.epoch, readouts)

    @property
    def epoch(self) -> float:
        """Epochs so far, with the fraction of the present one."""
        return self.trainer.step / max(self.trainer.batches.steps_per_epoch, 1)

    def evaluate_when_due(self) -> Iterator[Record]:
        """kNN on the validation split; the end of the run has readouts of its own."""
        step, total = self.trainer.step, self.trainer.total_steps
        every = self.trainer.config.evaluation.knn_every * self.trainer.batches.steps_per_epoch
        if every and step % every == 0 and step < total:
            started = time.monotonic()
            with uncompiled():
                values = validation_values(self.trainer.model.query, self.data, self.trainer.config)
            yield self._record(values)
            self.evaluation_seconds += time.monotonic() - started
            self.save()
            self.watch.since += time.monotonic() - started  # evaluation is not training time

    def checkpoint_due(self) -> bool:
        trainer = self.trainer
        minutes = (time.monotonic() - self.saved_at) / 60
        return trainer.step == trainer.total_steps or minutes >= trainer.config.train.checkpoint_minutes

    def save(self) -> None:
        if distributed.rank() == 0:
            checkpoint.save(self.trainer.state_dict(), self.path, previous=self.path.with_name(PREVIOUS))
        self.saved_at = time.monotonic()

    def finish(self, path: Path) -> Iterator[Record | Paused]:
        """Curves of readouts that train, then the final readouts; Paused if it is to stop before they are there.

        Leaves the weights: {"encoder", "head": state dicts, "config", "step"}.
        """
        trainer, started = self.trainer, time.monotonic()
        if trainer.total_steps == 0:
            trainer.measure_statistics()
        query = trainer.model.query
        progress = Progress(
            path.with_name(READOUTS),
            self.stop,
            {"run_id": run_id(trainer.config), "step": trainer.step},
            minutes=trainer.config.train.checkpoint_minutes,
            device=trainer.device,
        )
        try:
            with uncompiled(), progress:
                values = final_values(query, self.data, trainer.config)
        except Stopped:
            yield self.paused(progress.done)
            return
        state = {"encoder": query.encoder.state_dict(), "head": query.head.state_dict(), "step": trainer.step}
        if distributed.rank() == 0:
            checkpoint.save(state | {"config": to_plain(trainer.config)}, path)
        self.evaluation_seconds += time.monotonic() - started + progress.seconds
        seconds = {
            "seconds/setup": self.setup_seconds,
            "seconds/train": trainer.seconds,
            "seconds/evaluation": self.evaluation_seconds,
        }
        alone, by_epoch = curves(values)
        for epoch, values in by_epoch.items():
            yield Record(trainer.step + epoch, epoch, values)
        yield self._record(alone | seconds)
        if distributed.rank() == 0:  # the caller has taken all records
            progress.path.unlink(missing_ok=True)
