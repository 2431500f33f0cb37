"""Failures by cause. Oracles: errors that Python and PyTorch really raise; the table."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from experiments.plan.configs import config_of
from experiments.run.worker import one_line
from experiments.state.failures import DIVERGED, MEMORY, NODE, OTHER, STOPPED, ended_early, grouped, normalised
from experiments.state.find import Found
from experiments.state.state import RunState
from experiments.store import causes, schema
from experiments.store.run import RunDirectory
from tests.support.stand_in_runs import cell, prepared

CUDA = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of "
    "which 1.22 GiB is free."
)


def raised() -> Exception:
    """What a run that is given a directory that is none really dies of, inside our own code."""
    try:
        config_of(RunDirectory(Path("/nowhere/0123456789abcdef")))
    except ValueError as error:
        return error
    raise AssertionError


def state(kind: str, reason: str, *, diverged: bool = False) -> RunState:
    return RunState(kind, reason, diverged)


def found(run: RunDirectory, seed: int = 0) -> Found:
    return Found(run.run_id, "s@digits", "K=128", seed)


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (state(schema.FAILED, CUDA), MEMORY),
        (state(schema.FAILED, "MemoryError"), MEMORY),
        (RunState(schema.LOST, "job 7_1 ended: OUT_OF_MEMORY", cause=causes.OUT_OF_MEMORY), MEMORY),
        (RunState(schema.FAILED, "its own words", cause=causes.DIVERGED), DIVERGED),
        (RunState(schema.FAILED, "RuntimeError: inf", cause=causes.ERROR), DIVERGED),  # an error of a library
        (RunState(schema.FAILED, "another", cause=causes.STUCK), OTHER),
        (RunState(schema.LOST, "another process of the run is gone", cause=causes.PEER_LOST), NODE),
        (state(schema.FAILED, "diverged: the loss is nan at step 3; lower optim.lr", diverged=True), DIVERGED),
        (state(schema.LOST, "job 7_1 ended: NODE_FAIL"), NODE),
        (state(schema.LOST, "no heartbeat from n0 for 400 s"), NODE),
        (state(schema.MISSING, "job 7 left the queue before the run began: FAILED"), NODE),
        (state(schema.PREEMPTED, "stopped by SIGUSR2; not requeued: requeued 50 times already"), STOPPED),
        (state(schema.FAILED, "FileNotFoundError: no /data/images"), OTHER),
        (state(schema.FAILED, "KeyError: 'information'"), OTHER),  # neither inf nor nan
    ],
)
def test_the_cause_of_an_end(tmp_path: Path, state: RunState, cause: str) -> None:
    assert ended_early(tmp_path, found(prepared(tmp_path, cell())), state).cause == cause


def test_the_same_error_at_the_same_place_is_one_line(tmp_path: Path) -> None:
    ended = []
    for seed, number in enumerate((2, 2, 3)):
        run = prepared(tmp_path, cell(seed=seed))
        error = raised()
        text = "".join(traceback.format_exception(error))
        (run.path / schema.LOG).write_text(f"earlier\n{text}")
        reason = one_line(error).replace("0123456789abcdef", f"{number}23456789abcdef")
        ended.append(ended_early(tmp_path, found(run, seed), state(schema.FAILED, reason)))
    ((cause, error_line, runs),) = grouped(ended)
    assert cause == OTHER
    assert error_line.endswith("in experiments/store/run.py, config")
    assert [run.seed for run in runs] == [0, 1, 2]


def test_what_differs_between_alike_errors_is_left_out() -> None:
    alike = [
        (
            "index 12 is out of bounds for dimension 0 with size 10",
            "index 7 is out of bounds for dimension 0 with size 99",
        ),
        ("<Thing at 0x7f3a> of /home/a/data/x.png", "<Thing at 0x11bc> of /scratch/b/x.png"),
        ("job 71_3 ended: NODE_FAIL", "job 8 ended: NODE_FAIL"),
        ("no heartbeat for 181.5 s", "no heartbeat for 3e2 s"),
    ]
    for one, other in alike:
        assert normalised(one) == normalised(other)
    assert normalised("KeyError: 'a'") != normalised("KeyError: 'b'")


def test_the_largest_group_stands_first_in_its_cause(tmp_path: Path) -> None:
    run = found(prepared(tmp_path, cell()))
    reasons = ["ValueError: a", "ValueError: b", "ValueError: b", CUDA]
    groups = grouped([ended_early(tmp_path, run, state(schema.FAILED, reason)) for reason in reasons])
    assert [(cause, len(runs)) for cause, _, runs in groups] == [(MEMORY, 1), (OTHER, 2), (OTHER, 1)]
