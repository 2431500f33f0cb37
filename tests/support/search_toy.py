"""A search whose objective is a formula of the config, so that workers, storage and samplers can be tested without training.

    python -m tests.search_toy RECORD        one worker

The best point is lr = 0.1, T = 0.2, K = 512, where the value is 100; points fall off by squares. TOY_SECONDS: of each trial,
unless it is stopped.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optuna.trial import Trial

from experiments.plan.sweep import Cell
from experiments.search.address import named
from experiments.search.definition import Choice, Log, Powers, Search, plan
from experiments.search.study import Ended, Study
from experiments.search.worker import SearchWorker
from experiments.store import schema
from experiments.store.files import replace_json
from experiments.store.schema import SearchRecord
from experiments.store.search_record import read_record, record_path
from moco.config import Config

TOY = Search(
    name="toy",
    question="Is the formula's best point found?",
    space={
        "optim.lr": Log(1e-3, 10.0),
        "loss.temperature": Log(0.02, 2.0),
        "negatives.size": Powers(128, 1024),
        "head.hidden": Choice((), (0,)),
    },
    pruner="none",
)


def value(config: Config) -> float:
    lr, temperature = math.log10(config.optim.lr) + 1, math.log10(config.loss.temperature / 0.2)
    size = math.log2(config.negatives.size) - 9
    return 100 - 5 * lr**2 - 10 * temperature**2 - size**2 - 2 * bool(config.head.hidden)


def toy(worker: SearchWorker, trial: Trial, cell: Cell) -> Ended:
    end = time.monotonic() + float(os.environ.get("TOY_SECONDS", "0"))
    while time.monotonic() < end and worker.signal is None:
        time.sleep(0.01)
    if worker.signal is not None:
        return Ended(schema.PREEMPTED, reason=f"stopped by {worker.signal}")
    values = {schema.KNN20: value(cell.config), "gpu_hours": cell.config.negatives.size / 1024}
    return Ended(schema.DONE, tuple(values[metric] for metric in worker.study.record["metrics"]))


def begun(
    root: Path,
    search: Search = TOY,
    *,
    seed: int = 0,
    address: str | None = None,
    base: bool = True,
    settings: Sequence[str] = (),
) -> Path:
    """The record of a fresh study, and its first entry in the storage. `base`: its values are the first trial."""
    planned = plan(search, search.base, ["train.device=cpu", *settings])
    path = record_path(root, planned.label)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_json(path, planned.record("python sweeps/toy.py", seed=seed, storage=named(address)))
    study = opened(path, address)
    if base:
        with study.locked():
            study.begin()
    study.close()
    return path


def opened(path: Path, address: str | None = None) -> Study:
    return Study(path, known(path), address)


def known(path: Path) -> SearchRecord:
    record = read_record(path)
    assert record is not None
    return record


def search(root: Path, *, seed: int = 0, **changes: object) -> SearchRecord:
    """A whole toy search in this process; its record at the end."""
    path = begun(root, replace(TOY, **changes), seed=seed)  # type: ignore[arg-type]
    assert SearchWorker.on(path, toy).work()
    return known(path)


if __name__ == "__main__":
    sys.exit(0 if SearchWorker.on(Path(sys.argv[1]), toy).work() else 1)
