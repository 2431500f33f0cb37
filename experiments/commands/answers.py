"""Results of the analysis that commands print or need.

    show_table     a sweep's table, when all its runs have ended and after `evaluate`
    show_search    a search's best trials, when it has ended
    undecided      the arms that need more seeds, between the rounds of `--until-significant`

The analysis is imported when it is needed, so that a command that shows no table does not load polars.
"""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.launch.adaptive import Open


def show_table(root: Path, label: str, readout: str | None = None) -> None:
    """Print the table of a sweep, and the command that prints it again. `readout`: by default the sweep's metric."""

    def text() -> str:
        from analysis.ablation import ablation_table
        from analysis.formats import render, terminal_width
        from analysis.frame import load_sweep

        return render(ablation_table(*load_sweep(root, label), readout), "text", terminal_width())

    _show(text, ["table", label, *(["--readout", readout] if readout else [])])


def show_search(root: Path, label: str) -> None:
    """Print the best trials of a search, and the command that prints them again."""

    def text() -> str:
        from analysis.search import find_search, table

        return table(root, find_search(root, label))

    _show(text, ["search", label, "--table"])


def _show(text: Callable[[], str], command: list[str]) -> None:
    """Print the text and the command. An error in making it is one line on stderr: the command's own work is done."""
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


def undecided(root: Path, label: str) -> Open:
    """The arms that are not told apart from the baseline yet, and those that never will be. Raises ValueError where there can
    be no table."""
    from analysis import ablation
    from analysis.frame import load_sweep
    from experiments.launch.adaptive import Open

    try:
        table = ablation.ablation_table(*load_sweep(root, label, log=lambda line: None))
    except (ValueError, OSError) as error:
        raise ValueError(f"{label}: cannot be judged: error: {error}") from None
    return Open(ablation.undecided(table), ablation.lost(table))
