"""Real processes without torch, to test the launcher with: a worker whose trainer counts steps, and a sweep of such runs.

    python tests/support/stand_in.py worker RUN_DIR
    python tests/support/stand_in.py sweep [flags of a sweep]

Everything else is the real thing: worker, pool, locks, signals, command line. Environment, for all workers:
STAND_IN_STEP seconds per step; STAND_IN_FAIL and STAND_IN_DIVERGE a queue size whose runs break at their third step;
STAND_IN_STUBBORN: never asks whether it is to stop; STAND_IN_DIES: exits before it begins. STAND_IN_BETTER:
a queue size whose runs are 5 points better. STAND_IN_HOLD, a folder: runs wait at their sixth step, or at the one that
they break at, until it holds a file named as their queue size.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from experiments.launch.process import Work
from experiments.store.files import replace_text
from moco.config import Config, Queue
from moco.data.catalog import training_images
from moco.errors import Diverged


@dataclass(frozen=True)
class Record:
    step: int
    epoch: float
    values: dict[str, float]


@dataclass(frozen=True)
class Resumed:
    step: int


@dataclass(frozen=True)
class Paused:
    step: int
    epoch: float
    readouts: int | None = None


def train(config: Config, run_dir: Path, stop: Callable[[], bool], way: object = None) -> Iterator[Record | Resumed]:
    """Saves every fifth step and when it is stopped, as the real trainer does at its own times."""
    per_epoch = training_images(config.data) // config.train.batch_size
    step, total, checkpoint = 0, config.train.epochs * per_epoch, run_dir / "checkpoint.pt"
    if checkpoint.exists():
        step = json.loads(checkpoint.read_text())
        yield Resumed(step)
    while step < total:
        step += 1
        _hold(config, step, stop)
        _break(config, step)
        time.sleep(float(os.environ.get("STAND_IN_STEP", "0")))
        yield Record(step, step / per_epoch, {"train/loss": 1 / step, "validation/knn20_top1": 50.0 + step / total})
        stopped = not os.environ.get("STAND_IN_STUBBORN") and stop()
        if stopped or step % 5 == 0:
            replace_text(checkpoint, str(step))
        if stopped and step < total:
            return
    (run_dir / "encoder.pt").write_text("weights")
    linear = 80.0 + config.train.seed + _gain(config)
    yield Record(step, step / per_epoch, {"test/linear_top1": linear, "test/knn20_top1": 80.0})


def _gain(config: Config) -> float:
    """Points of the queue size in STAND_IN_BETTER over the others, not quite the same at every seed."""
    better = str(config.part(Queue).size) == os.environ.get("STAND_IN_BETTER")
    return 5.0 + 0.1 * (config.train.seed % 3) if better else 0.0


def _breaks(config: Config, how: str) -> bool:
    return str(config.part(Queue).size) == os.environ.get(how)


def _break(config: Config, step: int) -> None:
    if step == 3 and _breaks(config, "STAND_IN_FAIL"):
        raise RuntimeError("out of luck\nand more")
    if step == 3 and _breaks(config, "STAND_IN_DIVERGE"):
        raise Diverged(step, float("nan"))


def _hold(config: Config, step: int, stop: Callable[[], bool]) -> None:
    folder = os.environ.get("STAND_IN_HOLD")
    at = 3 if _breaks(config, "STAND_IN_FAIL") or _breaks(config, "STAND_IN_DIVERGE") else 6
    while folder and step == at and not stop() and not (Path(folder) / str(config.part(Queue).size)).exists():
        time.sleep(0.02)


def worker(arguments: list[str]) -> int:
    if os.environ.get("STAND_IN_DIES"):
        sys.exit("ImportError: no module named torch")
    replace_trainer()
    from experiments.run.worker import main

    return main(arguments)


def replace_trainer() -> None:
    trainer = ModuleType("moco.train")
    vars(trainer).update(train=train, Record=Record, Resumed=Resumed, Paused=Paused)
    sys.modules["moco.train"] = trainer


def sweep() -> None:
    from experiments import Sweep
    from experiments.commands.sweep import run
    from tests.support.stand_in import COUNTING  # of the module that a process can import, not of `__main__`

    replace_trainer()  # for --cluster debug, which trains in this process
    sizes = (128, 256, 512)
    question = Sweep(
        name="stand_in",
        question="Does the launcher keep its promises?",
        claim="it does",
        varies=("negatives.size",),
        arms=lambda base: {f"K={k}": replace(base, negatives=Queue(k)) for k in sizes},
        baseline="K=128",
        seeds=2,
    )
    sys.exit(run(question, sys.argv[1:], COUNTING))


WORKER = (sys.executable, str(Path(__file__).resolve()), "worker")
COUNTING = Work(worker)

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP):  # a test run in the background of a shell may ignore them
        signal.signal(number, signal.default_int_handler)
    role, *rest = sys.argv[1:]
    if role == "worker":
        sys.exit(worker(rest))
    sys.argv[1:] = rest
    sweep()
