"""The real trainer under the real launcher: torch is imported once, by the server that all runs here are forked from.

Oracles: the uninterrupted run, bit for bit; the process table.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.launch.local import TRAINING
from experiments.launch.process import Child, Starter, kill_server
from experiments.plan.baselines import digits
from experiments.plan.sweep import Cell, make_cell
from experiments.run.machine import make_slots
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.run import RunDirectory
from moco.config import Evaluation
from tests.support.stand_in_runs import ROOT, environment, prepared, wait_until

SLOT = make_slots(1, runs=1, use_gpus=False)[0]
SLOT.environment["OMP_NUM_THREADS"] = "1"


def tiny(seed: int = 0, epochs: int = 3) -> Cell:
    """Ten steps an epoch, a record at every second one, a checkpoint at least at every evaluation."""
    base = digits()
    train = replace(base.train, epochs=epochs, log_every=2, device="cpu", checkpoint_minutes=0.005)
    evaluation = Evaluation(knn_every=1, linear_epochs=2, few_label_draws=2)
    return make_cell("tiny", seed, replace(base, train=train, evaluation=evaluation))


def start(starter: Starter, run: RunDirectory) -> Child:
    child = starter.start(([str(run.path)],), SLOT.environment, run.path / schema.LOG, wanted=lambda: True)
    assert child is not None
    return child


def end_of(child: Child) -> int | None:
    wait_until(lambda: not child.is_alive(), seconds=300)
    return child.exit_code


def story(run: RunDirectory) -> list[tuple[int, dict[str, Any]]]:
    """The journal without what a clock says."""
    clocks = ("speed/", "seconds/")
    return [(r["step"], {k: v for k, v in r["values"].items() if not k.startswith(clocks)}) for r in run.records()]


def journal_bytes(run: RunDirectory) -> int:
    journal = run.path / schema.JOURNAL
    return journal.stat().st_size if journal.exists() else 0


def is_done(run: RunDirectory) -> bool:
    return state_of(run.path).state == schema.DONE


def grown(run: RunDirectory, size: int) -> bool:
    return journal_bytes(run) > size


def counted(hits: schema.Hits) -> float:
    """The share of images that are hits."""
    return sum(byte.bit_count() for byte in b64decode(hits["bits"])) / hits["images"]


def test_killed_twice_at_random_moments_the_weights_are_those_of_the_whole_run_bit_for_bit(tmp_path: Path) -> None:
    starter = Starter(TRAINING)
    whole, killed = prepared(tmp_path / "whole", tiny()), prepared(tmp_path / "killed", tiny())
    assert end_of(start(starter, whole)) == 0
    size, draw = journal_bytes(whole), random.Random(11)
    for _ in range(2):
        child = start(starter, killed)
        wait_until(partial(grown, killed, journal_bytes(killed) + draw.randrange(size // 3)), seconds=300)
        os.kill(child.pid, signal.SIGKILL)
        assert end_of(child) == -signal.SIGKILL
        assert state_of(killed.path).state == schema.LOST
    assert end_of(start(starter, killed)) == 0
    assert story(killed) == story(whole)
    assert killed.hits() == whole.hits()
    test = (whole.results() or {})["test"]
    assert {name: 100 * counted(hits) for name, hits in whole.hits().items()} == {
        name: pytest.approx(test[name], abs=1e-9) for name in ("linear_top1", "knn20_top1", "knn200_top1")
    }
    first, second = (torch.load(run.path / schema.ENCODER, weights_only=True) for run in (whole, killed))
    for part in ("encoder", "head"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
    before, after = whole.results(), killed.results()
    assert before is not None
    assert after is not None
    assert (before["test"], before["validation"]) == (after["test"], after["validation"])


def test_forked_runs_do_not_notice_that_a_sibling_or_the_server_is_killed(tmp_path: Path) -> None:
    starter = Starter(TRAINING)
    runs = [prepared(tmp_path, tiny(seed, epochs=6)) for seed in (0, 1, 2)]
    first, second, third = (start(starter, run) for run in runs)
    assert starter.forks
    wait_until(lambda: all(os.getsid(one.pid) == one.pid for one in (first, second, third)))  # soon after the fork
    wait_until(lambda: all(grown(run, 0) for run in runs), seconds=300)
    os.kill(second.pid, signal.SIGKILL)
    assert end_of(second) == -signal.SIGKILL
    kill_server()
    assert first.is_alive()
    assert end_of(start(starter, runs[1])) == 0  # by a new server, or from scratch
    for child, run in ((first, runs[0]), (third, runs[2])):
        assert end_of(child) is None  # nobody knows
        assert is_done(run)
        log = (run.path / schema.LOG).read_text()
        assert re.search(r"attempt 1: process \d+ on .*\n(.*epoch.*\n)+.*done in", log), log


def test_the_sweep_as_a_user_starts_it(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    command = [
        sys.executable,
        str(ROOT / "sweeps/queue_size.py"),
        "--seeds",
        "1",
        "--only",
        "K=128",
        "random-init",
        "--set",
        "train.epochs=1",
        "evaluation.linear_epochs=2",
        "evaluation.few_label_draws=2",
    ]
    env = environment(MOCO_RUNS=str(root), OMP_NUM_THREADS="1")
    result = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "2 of 2 runs done" in result.stdout
    table = result.stdout.partition("runs done")[2]
    assert re.search(r"^K=128\s+1/1\s+\d\d\.\d", table, re.MULTILINE), result.stdout
    assert re.search(r"^K=256\s+0/1", table, re.MULTILINE)
    assert re.search(r"^random init\s+1/1\s+\d\d\.\d", table, re.MULTILINE)
    for path in root.glob("*/environment.json"):
        assert {"config.json", "uncommitted.diff", "encoder.pt", "results.json"} <= set(os.listdir(path.parent))
