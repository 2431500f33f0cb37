"""A hundred seeded kills, twenty and more in the midst of a write. Oracle: the run that nobody kills, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from experiments.commands.verify_resume import summary
from experiments.launch.verify_resume import differences, verify
from experiments.plan.baselines import digits4
from experiments.plan.sweep import Cell, make_cell
from experiments.run.worker import attempt
from experiments.store import schema
from moco import checkpoint
from moco.config import Evaluation
from tests.support.stand_in_runs import prepared

PHASES = {"start", "step", "evaluation", "checkpoint", "journal", "readout", "finish", "write"}


def tiny() -> Cell:
    """Eight steps, a record and a checkpoint at each, an evaluation after the fourth, every kind of readout that trains."""
    base = digits4()
    train = replace(base.train, epochs=2, batch_size=128, log_every=1, device="cpu", checkpoint_minutes=1e-5)
    evaluation = Evaluation(knn_every=1, linear_epochs=2, few_label_draws=1)
    return make_cell("tiny", 0, replace(base, train=train, evaluation=evaluation))


def test_a_hundred_kills_in_every_phase_leave_the_run_that_nobody_killed(tmp_path: Path) -> None:
    report = verify(tiny(), tmp_path, kills=100, seed=0)
    assert not report.problems, "\n".join(report.problems)
    assert report.kills == 100
    assert report.writing >= 20, summary(report)
    assert set(report.phases) == PHASES, summary(report)


def test_the_comparison_sees_a_bit_of_a_weight_a_record_and_what_is_left_behind(tmp_path: Path) -> None:
    whole, other = (prepared(tmp_path / name, tiny()) for name in ("whole", "other"))
    for run in (whole, other):
        assert attempt(run.path) == schema.DONE
    assert not list(differences(whole, other))
    state = checkpoint.load(other.path / schema.ENCODER)
    name, weights = next(iter(state["encoder"].items()))
    weights.view(-1).view(torch.int32)[0] ^= 1
    checkpoint.save(state, other.path / schema.ENCODER)
    with other.journal() as journal:
        journal.append({"step": 8, "epoch": 2.0, "time": 0.0, "values": {"train/loss": 0.0}})
    (other.path / f".{schema.STATUS}.0123456789ab").touch()
    one, two, three = differences(whole, other)
    assert f"the first is {name}" in one
    assert "the records differ" in two
    assert ".status.json.0123456789ab" in three
