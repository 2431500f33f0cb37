"""What a launch looks like. Oracles: times in closed form, lines written out, the width of the terminal."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from experiments.launch.estimate import OVERHEAD_STEPS, estimate
from experiments.launch.progress import Progress, Run, clock
from experiments.state.state import RunState
from experiments.store import schema
from experiments.store.durations import in_words
from experiments.store.files import replace_json
from experiments.store.run import RunDirectory
from tests.support.stand_in_runs import STEPS_PER_EPOCH, cell, prepared


def running(step: int, total: int = 100, knn: float | None = None) -> RunState:
    return RunState(schema.RUNNING, step=step, total_steps=total, knn=knn)


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "0:07"), (59.6, "1:00"), (754, "12:34"), (11045, "3:04:05")])
def test_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_time_left_is_the_pace_since_the_first_look() -> None:
    run = Run(cell(), looked=time.monotonic() - 30, first=0.25, state=running(50))
    assert run.left() == pytest.approx(60, abs=1)  # a quarter took 30 s, two are to go
    assert Run(cell(), first=0.5, state=running(50)).left() is None


def test_time_left_of_the_sweep_shares_the_open_work_among_the_slots(tmp_path: Path) -> None:
    cells = [cell(seed=seed, epochs=10) for seed in range(5)]
    view = Progress("t", cells, slots=2, root=tmp_path)
    for one in cells[:2]:
        view.running[one.run_id] = Run(one, looked=time.monotonic() - 30, first=0.0, state=running(50))
    work = 10 * STEPS_PER_EPOCH + OVERHEAD_STEPS
    pace = 2 * 30 / (2 * work / 2)  # seconds per unit of work
    assert view.left() == pytest.approx((5 * work - work) * pace / 2, rel=0.02)


@pytest.mark.parametrize("width", [50, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_each_run_keeps_its_own(width: int, tmp_path: Path) -> None:
    cells = [cell(seed=seed, epochs=10) for seed in range(3)]
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    view = Progress("queue_size@digits,train.epochs=10,optim.lr=0.1234", cells, 2, tmp_path, screen)
    for one in cells[:2]:
        view.running[one.run_id] = Run(one, looked=time.monotonic() - 30, first=0.0, state=running(50, knn=93.14))
    screen.print(view)
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("queue_size@digits"[: width // 2 - 6])
    assert "0/3" in lines[0]
    for seed, line in enumerate(lines[1:]):
        assert line.startswith(f"  K=128 seed {seed}")
        assert "kNN 93.1" in line
        assert line.rstrip().endswith("0:30")


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    one = cell(epochs=10)
    run = prepared(tmp_path, one)
    replace_json(run.path / schema.RESULTS, {"test": {"linear_top1": 98.25, "knn20_top1": 95.0}})
    told = io.StringIO()
    with Progress("t", [one, cell(seed=1)], 1, tmp_path, Console(file=told, force_terminal=False)) as view:
        view.started(one)
        view.progress(one, running(10))
        view.ended(one, RunState(schema.DONE))
        view.ended(cell(seed=1), RunState(schema.FAILED, "RuntimeError: out of luck"))
    assert told.getvalue().splitlines() == [
        "started   K=128 seed 0",
        "1/2       K=128 seed 0  linear 98.2  kNN 95.0  0:00",
        "2/2       K=128 seed 1  failed: RuntimeError: out of luck  0:00",
    ]


def test_an_estimate_scales_finished_runs_of_the_same_kind_and_is_none_without(tmp_path: Path) -> None:
    planned = [cell(seed=seed, epochs=20) for seed in (7, 8, 9, 10)]
    assert estimate(tmp_path, planned, slots=2) is None
    for seed, seconds in enumerate((10.0, 20.0, 30.0)):
        run = prepared(tmp_path, cell(seed=seed, epochs=10))
        replace_json(run.path / schema.RESULTS, {"seconds": seconds})
    other = RunDirectory(prepared(tmp_path, cell(epochs=0)).path)  # untrained: says nothing about the pace
    replace_json(other.path / schema.RESULTS, {"seconds": 9999.0})
    pace = 20.0 / (10 * STEPS_PER_EPOCH + OVERHEAD_STEPS)  # of the median run
    expected = pace * (20 * STEPS_PER_EPOCH + OVERHEAD_STEPS) * 4 / 2
    known = estimate(tmp_path, planned, slots=2)
    assert known is not None
    assert known[0] == pytest.approx(expected)
    assert known[1] == 3


@pytest.mark.parametrize(("seconds", "text"), [(12, "12 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_in_words(seconds: float, text: str) -> None:
    assert in_words(seconds) == text
