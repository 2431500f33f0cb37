"""What the analysis says of runs, for commands that end with it: a sweep's table, a search's trials, the undecided arms.

    show_table     printed when all runs of a sweep have ended, and after `evaluate`
    show_search    printed when a search has ended
    undecided      asked between the rounds of `--until-significant`

The analysis is imported when it is asked, so that a command that shows no table does not load polars.
"""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path


def show_table(root: Path, label: str, readout: str | None = None) -> None:
    """The table of a sweep, and the command that prints it again. `readout`: another than the sweep's own metric."""

    def text() -> str:
        from analysis.ablation import ablation_table
        from analysis.formats import render, terminal_width
        from analysis.frame import load_sweep

        return render(ablation_table(*load_sweep(root, label), readout), "text", terminal_width())

    _show(text, ["table", label, *(["--readout", readout] if readout else [])])


def show_search(root: Path, label: str) -> None:
    """The best trials of a search, and the command that prints them again."""

    def text() -> str:
        from analysis.search import find_search, table

        return table(root, find_search(root, label))

    _show(text, ["search", label, "--table"])


def _show(text: Callable[[], str], command: list[str]) -> None:
    """What cannot be read is one line on stderr: the runs are safe, and the command goes on to its own end."""
    print(flush=True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ± still gets its table
    try:
        sys.stdout.write(text())
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    print(f"\ntable again: {shlex.join(['python', '-m', 'analysis', *command])}", flush=True)


def undecided(root: Path, label: str) -> list[str]:
    """The arms that are not told apart from the baseline yet. Raises ValueError where the sweep cannot be judged."""
    from analysis import ablation
    from analysis.frame import load_sweep

    try:
        table = ablation.ablation_table(*load_sweep(root, label, log=lambda line: None))
    except (ValueError, OSError) as error:
        raise ValueError(f"{label}: cannot be judged: error: {error}") from None
    return ablation.undecided(table)
