"""The progress of a launch: bars on a terminal, plain lines elsewhere. A line stays for each finished run.

Bars, Total     rows of bars; the first row, which counts
Progress        the display of runs (a `View` of the pool)
clock, result_words     times and results as text
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import rich.progress
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from experiments.launch.estimate import work
from experiments.plan.sweep import Cell
from experiments.state.state import RunState
from experiments.store import schema
from experiments.store.run import RunDirectory

WAITING = ""  # key of the row that is shown until the first run starts
PLAIN_SECONDS = 30.0  # between two lines about the same run, without a terminal
SIGNS = {
    schema.DONE: ("✓", "green"),
    schema.FAILED: ("✗", "red"),
    schema.LOST: ("✗", "red"),
    schema.PRUNED: ("-", "dim"),
    schema.CANCELLED: ("-", "yellow"),
    schema.PREEMPTED: ("-", "yellow"),
}


def clock(seconds: float) -> str:
    """0:07, 12:34, 3:04:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def result_words(state: RunState, results: schema.Results | None) -> str:
    """The readouts of a run that ended, or its state and reason."""
    if state.state == schema.DONE and results is not None:
        short = {schema.LINEAR: "linear", schema.KNN20: "kNN", schema.FEW_LABEL: "few-label"}
        test = results.get("test", {})
        return "  ".join(f"{word} {test[name]:.1f}" for name, word in short.items() if name in test)
    return f"{state.state}: {state.reason}" if state.reason else state.state


Shown = Callable[[], tuple[Text, str]]  # (facts, time) of a row


class Bars(rich.progress.Progress):
    """A row for each task: name, bar, facts, time. `shown` gives the last two whenever the row is drawn."""

    def __init__(self, console: Console, now: Callable[[], float]) -> None:
        self._screen, self._bar = console, rich.progress.BarColumn(bar_width=None)  # super().__init__ draws once
        super().__init__(
            console=console, refresh_per_second=4, transient=True, get_time=now, disable=not console.is_terminal
        )

    def add(self, name: str, shown: Shown, *, total: float | None = None, style: str = "") -> rich.progress.TaskID:
        """Add a row. Without a `total` its bar pulses."""
        return self.add_task(name, total=total, shown=shown, style=style)

    def make_tasks_table(self, tasks: Iterable[rich.progress.Task]) -> Table:
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(14, self._screen.width // 2 - 4))
        table.add_column(ratio=1)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, justify="right", style="dim")
        for task in tasks:
            facts, seconds = task.fields["shown"]()
            table.add_row(Text(task.description, style=task.fields["style"]), self._bar(task), facts, Text(seconds))
        return table

    def get_renderable(self) -> Padding:
        return Padding(super().get_renderable(), (0, 3, 0, 0))  # room for the ^C that a terminal echoes


class Total:
    """Counts how many of `total` things have ended: the first row of bars, or lines without a terminal. `now`: seconds."""

    def __init__(self, title: str, total: int, console: Console | None, now: Callable[[], float]) -> None:
        self.total, self.ended_so_far, self.now, self.began = total, 0, now, now()
        self.console = console or Console(highlight=False)
        self.plain = not self.console.is_terminal
        self.bars = Bars(self.console, now)
        self._all = self.bars.add(title, self._shown, total=total, style="bold")

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def left(self) -> float | None:
        """Seconds until all have ended, at the pace so far; None while it is unknown."""
        if not self.ended_so_far:
            return None
        return (self.now() - self.began) * (self.total - self.ended_so_far) / self.ended_so_far

    def count(self) -> str:
        return f"{self.ended_so_far}/{self.total}"

    def count_one_ended(self) -> None:
        self.ended_so_far += 1
        self.bars.update(self._all, completed=self.ended_so_far)

    def print(self, text: str) -> None:
        print(text, file=self.console.file, flush=True)

    def _shown(self) -> tuple[Text, str]:
        left = self.left()
        return Text(self.count()), f"{clock(left)} left" if left is not None else clock(self.now() - self.began)


@dataclass
class Run:
    """A run in progress. Its pace is measured from the moment when its steps were first seen."""

    cell: Cell
    began: float
    first_seen: float = 0.0  # that moment
    first_share: float | None = None  # the share of the steps that was done then
    state: RunState | None = None
    printed: float = 0.0

    @property
    def share(self) -> float | None:
        return self.state.share if self.state else None

    def left(self, now: float) -> float | None:
        """Seconds to go at the pace so far; None while it is unknown."""
        share = self.share
        if share is None or self.first_share is None or share <= self.first_share:
            return None
        return (now - self.first_seen) * (1 - share) / (share - self.first_share)


class Progress(Total):
    """A `View` for the pool: runs in `root`, `slots` of them at a time."""

    def __init__(
        self,
        title: str,
        cells: Sequence[Cell],
        slots: int,
        root: Path,
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root, self.slots = root, slots
        self.work = {cell.run_id: work(cell.config) for cell in cells}
        self.running: dict[str, Run] = {}
        self.finished: dict[str, RunState] = {}
        self.spent: list[tuple[float, float]] = []  # (work, seconds) of the runs that this launch finished
        super().__init__(title, len(self.work), console, now)
        self._rows = {WAITING: self.bars.add("  importing torch, once for all runs", lambda: (Text(), ""))}  # by run id

    def _run(self, cell: Cell) -> Run:
        self._remove_row(WAITING)
        run = self.running.setdefault(cell.run_id, Run(cell, self.now()))
        if cell.run_id not in self._rows:
            self._rows[cell.run_id] = self.bars.add(f"  {cell.name}", lambda: self._run_shown(run))
        return run

    def _remove_row(self, key: str) -> None:
        if key in self._rows:
            self.bars.remove_task(self._rows.pop(key))

    def started(self, cell: Cell) -> None:
        self._run(cell)
        if self.plain:
            self.print(f"started   {cell.name}")

    def progress(self, cell: Cell, state: RunState) -> None:
        run = self._run(cell)
        run.state = state
        if run.first_share is None and state.state == schema.RUNNING and state.share is not None:
            run.first_share, run.first_seen = state.share, self.now()
        if state.share is not None:
            self.bars.update(self._rows[cell.run_id], total=1.0, completed=state.share)
        if self.plain and self.now() - max(run.printed, run.began) > PLAIN_SECONDS:
            run.printed = self.now()
            share, left = state.share or 0.0, run.left(self.now())
            knn = f"  kNN {state.knn:.1f}" if state.knn is not None else ""
            self.print(f"running   {cell.name}  {share:.0%}{knn}" + (f"  {clock(left)} left" if left else ""))

    def ended(self, cell: Cell, state: RunState) -> None:
        run = self.running.pop(cell.run_id, None)
        self.finished[cell.run_id] = state
        seconds = self.now() - run.began if run else 0.0
        if run and state.state == schema.DONE:
            self.spent.append((self.work[cell.run_id] * (1 - (run.first_share or 0.0)), seconds))
        self._remove_row(WAITING)
        self._remove_row(cell.run_id)
        self.count_one_ended()
        sign, style = SIGNS.get(state.state, ("?", ""))
        words = result_words(state, RunDirectory(self.root / cell.run_id).results())
        if self.plain:
            self.print(f"{self.count():<8}  {cell.name}  {words}  {clock(seconds)}")
        else:
            line = Text(f"{sign} ", style=style).append(f"{cell.name}  ", style="bold").append(words, style="")
            self.console.print(line.append(f"  {clock(seconds)}", style="dim"))

    def left(self) -> float | None:
        """Seconds until all is done, from the pace of this launch."""
        open_work = sum(w for run_id, w in self.work.items() if run_id not in self.finished)
        running = 0.0
        done, seconds = (sum(column) for column in zip(*self.spent, strict=True)) if self.spent else (0.0, 0.0)
        for run in list(self.running.values()):  # the pool may change the dictionary meanwhile
            if run.share is None:
                continue
            running += self.work[run.cell.run_id] * run.share
            if run.first_share is not None and run.share > run.first_share:
                done += self.work[run.cell.run_id] * (run.share - run.first_share)
                seconds += self.now() - run.first_seen
        if not done:
            return None
        return (open_work - running) * seconds / done / max(1, min(self.slots, len(self.work) - len(self.finished)))

    def _run_shown(self, run: Run) -> tuple[Text, str]:
        """Its share of steps and its last kNN, in a narrow window one of the two; and its time left."""
        share, left = run.share, run.left(self.now())
        pace = Text("starting" if share is None else "readouts" if share >= 1.0 else f"{share:.0%}")
        knn = Text(f"kNN {run.state.knn:.1f}" if run.state and run.state.knn is not None else "", style="cyan")
        facts = Text.assemble(pace, "  ", knn) if knn and self.console.width >= 64 else knn or pace
        return facts, clock(left) if left is not None else "-:--"
