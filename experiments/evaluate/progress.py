"""How far a sweep's readouts are: a bar on a terminal, plain lines elsewhere. A judged run leaves one line that stays."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.evaluate.add import in_words
from experiments.evaluate.pool import Outcome
from experiments.launch.progress import clock


class Progress:
    """`names`: of all runs that are judged, by run id."""

    def __init__(
        self, title: str, names: Mapping[str, str], protocols: Sequence[str], console: Console | None = None
    ) -> None:
        self.title, self.names, self.protocols = title, names, protocols
        self.console = console or Console(highlight=False)
        self.began, self.ended = time.monotonic(), 0
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        else:
            self._say(f"judging {len(self.names)} runs of {self.title} by {', '.join(self.protocols)}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def told(self, outcome: Outcome) -> None:
        self.ended += 1
        name = self.names[outcome.run_id]
        words = outcome.error or in_words(outcome.values or {}, self.protocols) or "has them all by now"
        if self._live is not None:
            sign, style = ("✗", "red") if outcome.error else ("✓", "green")
            self.console.print(Text(f"{sign} ", style=style).append(f"{name}  ", style="bold").append(words, style=""))
            return
        left = self.left()
        self._say(f"{self.ended}/{len(self.names)}  {name}  {words}" + (f"  {clock(left)} left" if left else ""))

    def left(self) -> float | None:
        """Seconds until all are judged, at the pace so far; None while that is unknown."""
        if not self.ended:
            return None
        return (time.monotonic() - self.began) * (len(self.names) - self.ended) / self.ended

    def __rich__(self) -> Table:
        left = self.left()
        words = f"{self.ended}/{len(self.names)}  " + (
            f"{clock(left)} left" if left is not None else clock(time.monotonic() - self.began)
        )
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis", max_width=max(12, self.console.width // 2 - 4))
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, justify="right")
        head.add_row(Text(self.title, style="bold"), ProgressBar(len(self.names), self.ended), Text(words))
        return head

    def _say(self, text: str) -> None:
        print(text, file=self.console.file, flush=True)
