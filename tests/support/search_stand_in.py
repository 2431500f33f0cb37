"""Searches whose runs are the stand-in's: real run directories, locks, signals and jobs, and no torch.

    python -m tests.search_stand_in worker RECORD
    python -m tests.search_stand_in search [flags of a search]

As `tests.support.stand_in`, but the held-out readouts are those of `tests.search_toy.value`, approached epoch by epoch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from experiments.store.files import replace_text
from moco.config import Config
from moco.data.catalog import training_images
from moco.errors import Diverged
from tests.support.stand_in import Paused, Record, Resumed


def train(config: Config, run_dir: Path, stop: Callable[[], bool], way: object = None) -> Iterator[Record | Resumed]:
    """Saves at each evaluation, which is once an epoch, and when it is stopped."""
    from tests.support.search_toy import value

    per_epoch = training_images(config.data) // config.train.batch_size
    step, total, checkpoint = 0, config.train.epochs * per_epoch, run_dir / "checkpoint.pt"
    if checkpoint.exists():
        step = json.loads(checkpoint.read_text())
        yield Resumed(step)
    while step < total:
        step += 1
        if config.optim.lr > float(os.environ.get("STAND_IN_DIVERGES_ABOVE", "inf")):
            raise Diverged(step, float("nan"))
        time.sleep(float(os.environ.get("STAND_IN_STEP", "0")))
        values = {"train/loss": 1 / step}
        if step % per_epoch == 0 and step < total:
            values["validation/knn20_top1"] = value(config) * step / total
        yield Record(step, step / per_epoch, values)
        stopped = stop()
        if stopped or step % per_epoch == 0:
            replace_text(checkpoint, str(step))
        if stopped and step < total:
            return
    (run_dir / "encoder.pt").write_text("weights")
    readouts = {"validation/knn20_top1": value(config), "test/knn20_top1": 80.0, "test/linear_top1": 90.0}
    yield Record(step, step / per_epoch, readouts)


def replace_trainer() -> None:
    trainer = ModuleType("moco.train")
    vars(trainer).update(train=train, Record=Record, Resumed=Resumed, Paused=Paused)
    sys.modules["moco.train"] = trainer


def work(path: str) -> str:
    """What an element of an array does, by its name in this module."""
    replace_trainer()
    from experiments.search.worker import work as real

    return real(path)


def worker(arguments: list[str]) -> int:
    replace_trainer()
    from experiments.search.worker import main

    return main(arguments)


def search(arguments: list[str]) -> int:
    from experiments.commands.search import Workers, run
    from experiments.launch.process import Work
    from tests.support import search_stand_in  # the module that a process can import, not `__main__`
    from tests.support.search_toy import TOY

    return run(TOY, arguments, Workers(Work(search_stand_in.worker), search_stand_in.work))


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "worker":
        sys.exit(worker(rest))
    sys.exit(search(rest))
