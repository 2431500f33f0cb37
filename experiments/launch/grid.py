"""The runs of a sweep and their states as plain text, for `--dry-run` and `status`. Imports neither torch nor rich."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap

from experiments.state.state import RunState
from experiments.store import schema

SEED_COLUMNS = 6  # more seeds than that are counted, not listed

Key = tuple[str, int]  # arm, seed


def grid(arms: Sequence[str], seeds: Sequence[int], states: Mapping[Key, RunState], baseline: str) -> list[str]:
    """One line per arm, the baseline marked: a state per seed, or counts if there are many seeds."""
    if len(seeds) <= SEED_COLUMNS:
        header = ["arm", *(f"seed {seed}" for seed in seeds)]
        rows = [[arm, *(_state(states.get((arm, seed))) for seed in seeds)] for arm in arms]
    else:
        header = ["arm", f"{len(seeds)} seeds"]
        rows = [[arm, counts(s for seed in seeds if (s := states.get((arm, seed))))] for arm in arms]
    for row in rows:
        row[0] += " (baseline)" if row[0] == baseline else ""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]]


def _state(state: RunState | None) -> str:
    if state is None:
        return ""
    if state.state in (schema.RUNNING, schema.PREEMPTED, schema.LOST) and state.share is not None:
        return f"{state.state} {state.share:.0%}"
    return "diverged" if state.diverged and state.state == schema.FAILED else state.state


def counts(states: Iterable[RunState]) -> str:
    """`3 done, 1 failed`: done first, then in the order of `schema.STATES`."""
    found = Counter(state.state for state in states)
    order = [schema.DONE, *(s for s in schema.STATES if s != schema.DONE)]
    return ", ".join(f"{found[name]} {name}" for name in order if found[name]) or "none"


def many(number: int, one: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def described(entries: Mapping[str, str], indent: str = "") -> list[str]:
    """Names with what they are, in two columns, wrapped to the width of the terminal."""
    width = len(indent) + max(map(len, entries), default=0) + 2
    lines = []
    for name, what in entries.items():
        first, *rest = paragraph(what, " " * width)
        lines += [f"{indent}{name}".ljust(width) + first[width:], *rest]
    return lines


def paragraph(text: str, indent: str = "") -> list[str]:
    """Lines of the text, wrapped to the width of the terminal, or to 80 columns without one."""
    width = shutil.get_terminal_size((80, 24)).columns
    return wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False) or [""]
