"""What a trial costs is its own work. Oracles: the journal's numbers added by hand; the resident memory that Linux reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.plan.baselines import digits
from experiments.plan.configs import create
from experiments.plan.sweep import make_cell
from experiments.run.system import give_back_memory, resident_mb
from experiments.search.trial import measured
from experiments.store import schema
from experiments.store.run import RunDirectory


def finished(root: Path, values: dict[str, float]) -> RunDirectory:
    cell = make_cell("a", 0, digits())
    run = RunDirectory(root / cell.run_id)
    create(run, cell.config)
    with run.journal() as journal:
        journal.append(
            {
                "step": 10,
                "epoch": 1.0,
                "time": 1.0,
                "values": {"train/loss": 1.0},
                "system": {"system/memory_mb": 838.0},
            }
        )
        journal.append({"step": 10, "epoch": 1.0, "time": 2.0, "values": values})
    results = {"test": {}, "validation": {"knn20_top1": 90.0}, "seconds": 4.3}
    (run.path / schema.RESULTS).write_text(json.dumps(results))
    return run


def test_hours_are_of_training_and_readouts_not_of_the_workers_start(tmp_path: Path) -> None:
    run = finished(tmp_path, {"seconds/setup": 2.9, "seconds/train": 1.1, "seconds/evaluation": 0.3})
    readouts, hours, memory = measured(run)
    assert readouts == {"knn20_top1": 90.0}
    assert hours == pytest.approx(1.4 / 3600)
    assert memory == 0.838


def test_a_run_without_these_numbers_counts_whole(tmp_path: Path) -> None:
    assert measured(finished(tmp_path, {"train/lr": 0.1}))[1] == pytest.approx(4.3 / 3600)


def test_freed_memory_is_given_back() -> None:
    give_back_memory()
    before = resident_mb()
    blocks = [torch.ones(25_000) for _ in range(2_000)]  # 0.1 MB each, under the size that malloc maps apart
    kept = blocks[::500]
    assert resident_mb() > before + 150
    del blocks
    give_back_memory()
    assert resident_mb() < before + 50
    assert len(kept) == 4
