"""What a launch looks like. Oracles: times in closed form, lines written out, the width of the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from experiments.launch.estimate import OVERHEAD_STEPS, estimate
from experiments.launch.progress import Progress, Run, clock
from experiments.plan.sweep import Cell
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


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_time_left_is_the_pace_since_the_steps_were_first_seen() -> None:
    run = Run(cell(), began=0.0, first_seen=100.0, first_share=0.25, state=running(50))
    assert run.left(130.0) == pytest.approx(60)  # a quarter took 30 s, two are to go
    assert Run(cell(), began=0.0, first_share=0.5, state=running(50)).left(130.0) is None


def half_done(title: str, cells: list[Cell], root: Path, console: Console | None = None) -> Progress:
    """Two slots; the first two runs went from 0 to 50 of 100 steps in the last 30 s."""
    now = Clock()
    view = Progress(title, cells, 2, root, console, now)
    for step in (0, 50):
        for one in cells[:2]:
            view.progress(one, running(step, knn=93.14))
        now.seconds += 30 if step == 0 else 0
    return view


def test_time_left_of_the_sweep_shares_the_open_work_among_the_slots(tmp_path: Path) -> None:
    view = half_done("t", [cell(seed=seed, epochs=10) for seed in range(5)], tmp_path)
    work = 10 * STEPS_PER_EPOCH + OVERHEAD_STEPS
    pace = 2 * 30 / (2 * work / 2)  # seconds per unit of work
    assert view.left() == pytest.approx((5 * work - work) * pace / 2)


@pytest.mark.parametrize("width", [50, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_each_run_keeps_its_own(width: int, tmp_path: Path) -> None:
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    cells = [cell(seed=seed, epochs=10) for seed in range(3)]
    view = half_done("queue_size@digits,train.epochs=10,optim.lr=0.1234", cells, tmp_path, screen)
    screen.print(view.bars)
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("queue_size@digits"[: width // 2 - 6])
    assert "0/3" in lines[0]
    assert "1:00 left" in lines[0]  # halves of two and the third: 30 s a half, two slots
    for seed, line in enumerate(lines[1:]):
        assert line.startswith(f"  K=128 seed {seed}")
        assert "kNN 93.1" in line
        assert ("50%" in line) == (width >= 64)
        assert line.rstrip().endswith("0:30")


def test_on_a_terminal_an_ended_run_leaves_its_row_and_one_line(tmp_path: Path) -> None:
    """Names with brackets are text, not rich's markup; nothing but the lines of ended runs stays on the screen."""
    screen = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    cells = [replace(cell(seed=seed, epochs=10), arm="a[red]b") for seed in range(2)]
    with Progress("t", cells, 1, tmp_path, screen) as view:
        assert [task.description.strip() for task in view.bars.tasks] == ["t", "importing torch, once for all runs"]
        view.started(cells[0])
        assert [task.description for task in view.bars.tasks] == ["t", "  a[red]b seed 0"]
        view.ended(cells[0], RunState(schema.FAILED, "out of luck"))
        assert [(task.description, task.completed) for task in view.bars.tasks] == [("t", 1)]
    assert isinstance(screen.file, io.StringIO)
    assert "✗ a[red]b seed 0  failed: out of luck  0:00\n" in screen.file.getvalue()


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    one = cell(epochs=10)
    run = prepared(tmp_path, one)
    replace_json(run.path / schema.RESULTS, {"test": {"linear_top1": 98.25, "knn20_top1": 95.0}})
    output = io.StringIO()
    with Progress("t", [one, cell(seed=1)], 1, tmp_path, Console(file=output, force_terminal=False)) as view:
        view.started(one)
        view.progress(one, running(10))
        view.ended(one, RunState(schema.DONE))
        view.ended(cell(seed=1), RunState(schema.FAILED, "RuntimeError: out of luck"))
    assert output.getvalue().splitlines() == [
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
