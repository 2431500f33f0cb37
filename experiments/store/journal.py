"""The journal of a run, read: the metric records that count, and which lines are damaged.

A run that resumes at step s repeats all steps after s. Its worker says so in a line `{"resumed_at": s}`, and what stands
before that line with a later step is void.
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
    """Empty where there is no such file. A torn last line is a dead writer's, and no damage. Raises OSError."""
    objects, damaged = sound_lines(path)
    records: list[Record] = []
    for number, line in objects:
        if not add_line(records, line):
            damaged.append(number)
    return Journal(records, sorted(damaged))


def add_line(records: list[Record], line: Record) -> bool:
    """What the journal says after one more line. False, and nothing is changed, for a line that is none of a journal."""
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
    """Each key's last value."""
    return {name: value for record in records for name, value in record["values"].items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
