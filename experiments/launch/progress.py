"""What a launch looks like: bars on a terminal, plain lines elsewhere. A finished run leaves one line that stays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.launch.estimate import work
from experiments.plan.sweep import Cell
from experiments.state.state import RunState
from experiments.store import schema
from experiments.store.run import RunDirectory

PLAIN_SECONDS = 30.0  # between two lines about the same run, where there is no terminal
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
    """What to say about a run that ended: its readouts, or why it has none."""
    if state.state == schema.DONE and results is not None:
        short = {schema.LINEAR: "linear", schema.KNN20: "kNN", schema.FEW_LABEL: "few-label"}
        test = results.get("test", {})
        return "  ".join(f"{word} {test[name]:.1f}" for name, word in short.items() if name in test)
    return f"{state.state}: {state.reason}" if state.reason else state.state


@dataclass
class Run:
    """A run in progress, as this launch sees it. Its pace is taken from the first look at its steps on."""

    cell: Cell
    began: float = field(default_factory=time.monotonic)
    looked: float = 0.0  # when that was
    first: float | None = None  # and the share that was done by then
    state: RunState | None = None
    said: float = 0.0

    def share(self) -> float | None:
        return self.state.share if self.state else None

    def left(self) -> float | None:
        """Seconds to go at the pace so far; None while that is unknown."""
        share = self.share()
        if share is None or self.first is None or share <= self.first:
            return None
        return (time.monotonic() - self.looked) * (1 - share) / (share - self.first)


class Progress:
    """A `pool.View` of the runs in `root`; `slots` of them at a time."""

    def __init__(
        self, title: str, cells: Sequence[Cell], slots: int, root: Path, console: Console | None = None
    ) -> None:
        self.root = root
        self.console = console or Console(highlight=False)
        self.title, self.slots, self.began = title, slots, time.monotonic()
        self.work = {cell.run_id: work(cell.config) for cell in cells}
        self.running: dict[str, Run] = {}
        self.finished: dict[str, RunState] = {}
        self.spent: list[tuple[float, float]] = []  # (work, seconds) of the runs that this launch finished
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None

    def started(self, cell: Cell) -> None:
        self.running[cell.run_id] = Run(cell)
        if self._live is None:
            self._print(f"started   {cell.name}")

    def progress(self, cell: Cell, state: RunState) -> None:
        run = self.running.setdefault(cell.run_id, Run(cell))
        run.state = state
        if run.first is None and state.state == schema.RUNNING and state.share is not None:
            run.first, run.looked = state.share, time.monotonic()
        if self._live is None and time.monotonic() - max(run.said, run.began) > PLAIN_SECONDS:
            run.said = time.monotonic()
            share, left = state.share or 0.0, run.left()
            self._print(f"running   {cell.name}  {share:.0%}{_knn(state)}" + (f"  {clock(left)} left" if left else ""))

    def ended(self, cell: Cell, state: RunState) -> None:
        run = self.running.pop(cell.run_id, None)
        self.finished[cell.run_id] = state
        seconds = time.monotonic() - run.began if run else 0.0
        if run and state.state == schema.DONE:
            self.spent.append((self.work[cell.run_id] * (1 - (run.first or 0.0)), seconds))
        sign, style = SIGNS.get(state.state, ("?", ""))
        words = result_words(state, RunDirectory(self.root / cell.run_id).results())
        count = f"{len(self.finished)}/{len(self.work)}"
        if self._live is None:
            self._print(f"{count:<8}  {cell.name}  {words}  {clock(seconds)}")
        else:
            line = Text(f"{sign} ", style=style).append(f"{cell.name}  ", style="bold").append(words, style="")
            self.console.print(line.append(f"  {clock(seconds)}", style="dim"))

    def _print(self, text: str) -> None:
        print(text, file=self.console.file, flush=True)

    def left(self) -> float | None:
        """Seconds until all is done, from the pace of this launch."""
        open_work = sum(w for run_id, w in self.work.items() if run_id not in self.finished)
        running = 0.0
        done, seconds = (sum(column) for column in zip(*self.spent, strict=True)) if self.spent else (0.0, 0.0)
        for run in list(self.running.values()):  # the pool may change it meanwhile
            share, left = run.share(), run.left()
            if share is None:
                continue
            running += self.work[run.cell.run_id] * share
            if left is not None and run.first is not None:
                done += self.work[run.cell.run_id] * (share - run.first)
                seconds += time.monotonic() - run.looked
        if not done:
            return None
        return (open_work - running) * seconds / done / max(1, min(self.slots, len(self.work) - len(self.finished)))

    def __rich__(self) -> Padding:
        waiting = not self.running and not self.finished
        below = [Text("  importing torch, once for all runs", style="dim")] if waiting else []
        rows = self._rows() if self.running else []
        return Padding(Group(self._head(), *below, *rows), (0, 3, 0, 0))  # room for the ^C that a terminal echoes

    def _head(self) -> Table:
        done, left = len(self.finished), self.left()
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis", max_width=max(12, self.console.width // 2 - 4))
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, justify="right")
        words = f"{done}/{len(self.work)}  " + (f"{clock(left)} left" if left is not None else clock(self._elapsed()))
        head.add_row(Text(self.title, style="bold"), ProgressBar(len(self.work), done), Text(words))
        return head

    def _rows(self) -> list[Table]:
        rows = Table.grid(padding=(0, 1), expand=True)
        wide = self.console.width >= 64
        rows.add_column(no_wrap=True, overflow="ellipsis", max_width=max(14, self.console.width // 2 - 4))
        rows.add_column(ratio=1)
        for _ in range(3 if wide else 2):
            rows.add_column(no_wrap=True, justify="right")
        for run in list(self.running.values()):
            rows.add_row(f"  {run.cell.name}", *self._cells(run, wide))
        return [rows]

    def _cells(self, run: Run, wide: bool) -> list[ProgressBar | Text]:
        share, left, state = run.share(), run.left(), run.state
        bar = ProgressBar(1.0, share or 0.0, pulse=share is None)
        knn = Text(f"kNN {state.knn:.1f}" if state and state.knn is not None else "", style="cyan")
        pace = Text(f"{share:.0%}" if share is not None else "starting")
        time_left = Text(clock(left) if left is not None else "-:--", style="dim")
        if share is not None and share >= 1.0:
            pace = Text("readouts")
        return [bar, pace, knn, time_left] if wide else [bar, knn if knn.plain else pace, time_left]

    def _elapsed(self) -> float:
        return time.monotonic() - self.began


def _knn(state: RunState) -> str:
    return f"  kNN {state.knn:.1f}" if state.knn is not None else ""
