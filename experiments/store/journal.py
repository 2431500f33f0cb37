"""Reads the journal of a run: the metric records that count, and the numbers of damaged lines.

A run that resumes at step s repeats all steps after s. Its worker writes a line `{"resumed_at": s}`, which makes void all
records before it with a later step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from experiments.store.files import sound_lines

Record = dict[str, Any]  # {"step", "epoch", "time", "values"[, "system"][, "judged"]}
RESUMED_AT = "resumed_at"


class Journal(NamedTuple):
    records: list[Record]
    damaged: list[int]  # numbers of lines, from 1, that are neither a record nor a resume


def read_journal(path: Path) -> Journal:
    """Empty if there is no such file. An incomplete last line is not counted as damage. Raises OSError."""
    objects, damaged = sound_lines(path)
    records: list[Record] = []
    for number, line in objects:
        if not add_line(records, line):
            damaged.append(number)
    return Journal(records, sorted(damaged))


def add_line(records: list[Record], line: Record) -> bool:
    """Apply one more line of the journal to `records`. Returns False, and changes nothing, for a line of another form."""
    if RESUMED_AT in line:
        if not _is_number(line[RESUMED_AT]):
            return False
        records[:] = [record for record in records if record["step"] <= line[RESUMED_AT]]
        return True
    if not (isinstance(line.get("values"), dict) and all(_is_number(line.get(k)) for k in ("step", "epoch", "time"))):
        return False
    records.append(line)
    return True


def last_values(records: list[Record]) -> dict[str, Any]:
    """The last value of each metric key."""
    return {name: value for record in records for name, value in record["values"].items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
