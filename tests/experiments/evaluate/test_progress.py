"""What judging a sweep looks like. Oracles: lines written out, times in closed form, the width of the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from experiments.evaluate.pool import Outcome
from experiments.evaluate.progress import Progress
from tests.experiments.launch.test_progress import Clock

NAMES = {f"run{seed}": f"K=128 seed {seed}" for seed in range(3)}


def test_without_a_terminal_there_are_plain_lines() -> None:
    printed, now = io.StringIO(), Clock()
    with Progress("q@digits", NAMES, ["retrieval"], Console(file=printed, force_terminal=False), now) as view:
        now.seconds += 30
        view.one_done(Outcome("run0", {"test/retrieval_map": 71.24}))
        view.one_done(Outcome("run1", None, "ValueError: no weights"))
        now.seconds += 15
        view.one_done(Outcome("run2", {}))
    assert printed.getvalue().splitlines() == [
        "judging 3 runs of q@digits by retrieval",
        "1/3  K=128 seed 0  retrieval_map 71.2  1:00 left",  # one took 30 s, two are to go
        "2/3  K=128 seed 1  ValueError: no weights  0:15 left",
        "3/3  K=128 seed 2  has them all by now",
    ]


@pytest.mark.parametrize("width", [40, 80])
def test_the_bar_fits_the_terminal_and_shows_count_and_time_left(width: int) -> None:
    screen, now = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None), Clock()
    view = Progress("queue_size@digits,train.epochs=10,optim.lr=0.1234", NAMES, ["retrieval"], screen, now)
    now.seconds += 30
    view.one_done(Outcome("run0", {"test/retrieval_map": 71.24}))
    screen.print(view.bars)
    assert isinstance(screen.file, io.StringIO)
    line, bar = screen.file.getvalue().splitlines()
    assert line == "✓ K=128 seed 0  retrieval_map 71.2"
    assert len(bar) <= width
    assert bar.rstrip().endswith("1/3 1:00 left")
