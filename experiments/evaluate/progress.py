"""Progress of `evaluate` on a sweep: a bar on a terminal, plain lines elsewhere, and one line for each run that ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from rich.console import Console
from rich.text import Text

from experiments.evaluate.add import headline_text
from experiments.evaluate.pool import Outcome
from experiments.launch.grid import many
from experiments.launch.progress import Total, clock


class Progress(Total):
    """`names`: run id -> the name to print, for every run to be evaluated."""

    def __init__(
        self,
        title: str,
        names: Mapping[str, str],
        protocols: Sequence[str],
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(title, len(names), console, now)
        self.title, self.names, self.protocols = title, names, protocols

    def __enter__(self) -> Self:
        if self.plain:
            self.print(f"judging {many(self.total, 'run')} of {self.title} by {', '.join(self.protocols)}")
        return super().__enter__()

    def one_done(self, outcome: Outcome) -> None:
        """Count a run and print its headlines or its error."""
        self.count_one_ended()
        name = self.names[outcome.run_id]
        text = outcome.error or headline_text(outcome.values or {}, self.protocols) or "has them all by now"
        if self.plain:
            left = self.left()
            self.print(f"{self.count()}  {name}  {text}" + (f"  {clock(left)} left" if left else ""))
        else:
            mark, style = ("✗", "red") if outcome.error else ("✓", "green")
            self.console.print(Text(f"{mark} ", style=style).append(f"{name}  ", style="bold").append(text, style=""))
