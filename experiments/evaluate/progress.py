"""How far a sweep's readouts are: a bar on a terminal, plain lines elsewhere. A judged run leaves one line that stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from rich.console import Console
from rich.text import Text

from experiments.evaluate.add import in_words
from experiments.evaluate.pool import Outcome
from experiments.launch.progress import Total, clock


class Progress(Total):
    """`names`: of all runs that are judged, by run id."""

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
            self.print(f"judging {self.total} runs of {self.title} by {', '.join(self.protocols)}")
        return super().__enter__()

    def told(self, outcome: Outcome) -> None:
        self.count_one_ended()
        name = self.names[outcome.run_id]
        words = outcome.error or in_words(outcome.values or {}, self.protocols) or "has them all by now"
        if self.plain:
            left = self.left()
            self.print(f"{self.count()}  {name}  {words}" + (f"  {clock(left)} left" if left else ""))
        else:
            sign, style = ("✗", "red") if outcome.error else ("✓", "green")
            self.console.print(Text(f"{sign} ", style=style).append(f"{name}  ", style="bold").append(words, style=""))
