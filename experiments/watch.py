"""A page of text that is drawn again and again: in place on a terminal, as a new page where it changes elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

AGAIN_SECONDS = 2.0
INTERRUPTED = 130

Page = Callable[[], tuple[list[str], bool]]  # its lines, and whether they may still change


def watch(page: Page, console: Console | None = None) -> int:
    """Until nothing changes any more; returns the exit code."""
    console = console or Console(highlight=False)
    try:
        _draw(page, console) if console.is_terminal else _print(page, console)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _draw(page: Page, console: Console) -> None:
    """Lines are cut at the edge, and the page at the bottom; the last one stays whole."""
    lines, live = page()
    with Live(_cut(lines), console=console, auto_refresh=False, transient=True) as drawn:
        while live:
            drawn.update(_cut([*lines, time.strftime("%H:%M:%S, Ctrl-C leaves")]), refresh=True)
            time.sleep(AGAIN_SECONDS)
            lines, live = page()
    for line in lines:
        console.print(_cut([line]))


def _cut(lines: list[str]) -> Text:
    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


def _print(page: Page, console: Console) -> None:
    before: list[str] = []
    while True:
        lines, live = page()
        if lines != before:
            print("\n".join([*([""] if before else []), *lines]), file=console.file, flush=True)
        if not live:
            return
        before = lines
        time.sleep(AGAIN_SECONDS)
