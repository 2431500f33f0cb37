"""The curves of a run: the points that MLflow gets, how many it has, and the table of all of them.

A point, once sent, stays true, and the points of a later look begin with those of an earlier one. So how many were sent
is all that a sync has to remember.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import schema

POINTS_PER_KEY = 2_000  # a longer history is thinned: charts show no more, and the UI slows down
MIRRORED = (*schema.METRICS, *schema.SYSTEM_METRICS)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """One value of one metric; all four together are MLflow's primary key, which drops what is sent twice."""

    key: str
    value: float
    time_ms: int
    step: int


def read_journal(path: Path) -> tuple[list[Record], tuple[str, ...]]:
    """The records that count, as `RunDirectory.records` has them, and what is wrong with the file, a line each.

    A damaged line is left out and named; the rest is used. A torn last line is a dead writer's, and nothing is wrong.
    """
    content = path.read_bytes() if path.exists() else b""
    records: list[Record] = []
    problems: list[str] = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            record = json.loads(line)
            if "resumed_at" in record:
                records = [r for r in records if r["step"] <= record["resumed_at"]]
            else:
                records.append({key: record[key] for key in ("step", "epoch", "time", "values")} | record)
        except (ValueError, KeyError, TypeError):
            problems.append(f"{path}, line {number}: damaged, left out")
    return records, tuple(problems)


def points(records: Iterable[Record], total_steps: int | None) -> tuple[Point, ...]:
    """The finite values of the documented metrics, thinned to about `POINTS_PER_KEY` for each.

    A run's steps fall in that many equal bins and the first value of a bin is kept, and the last step's: a choice that
    later records cannot change. A run with fewer steps than bins keeps all. A key repeated at one step replaces the
    earlier one, as the trainer has it.
    """
    kept: list[Point] = []
    place: dict[tuple[str, int], int] = {}
    for record in records:
        step, time_ms = record["step"], round(record["time"] * 1000)
        bin_ = _bin(step, total_steps)
        values = values_of(record)
        for key in MIRRORED:
            value = values.get(key)
            if value is None or not math.isfinite(value):
                continue
            index = place.setdefault((key, bin_), len(kept))
            point = Point(key, float(value), time_ms, step)
            if index == len(kept):
                kept.append(point)
            elif kept[index].step == step:
                kept[index] = point
    return tuple(kept)


def values_of(record: Record) -> Mapping[str, Any]:
    """What was measured, and what the machine did meanwhile."""
    return {**record["values"], **record["system"]} if "system" in record else record["values"]


def _bin(step: int, total_steps: int | None) -> int:
    return step * POINTS_PER_KEY // total_steps if total_steps and total_steps > POINTS_PER_KEY else step


def curves_csv(records: Sequence[Record], most_bytes: int) -> str:
    """All records as a table: step, epoch, time (UTC seconds), then every key in order of appearance.

    A value that is absent is an empty cell. If that is more than `most_bytes`, every second row goes, then every fourth,
    until it fits; the last row stays.
    """
    keys = list(dict.fromkeys(key for record in records for key in values_of(record)))
    rows = [[r["step"], r["epoch"], r["time"], *map(values_of(r).get, keys)] for r in records]
    text, stride = _csv(keys, rows), 1
    while len(text) > most_bytes and stride < len(rows):
        stride *= 2
        text = _csv(keys, rows[:-1:stride] + rows[-1:])
    return text


def _csv(keys: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", "epoch", "time", *keys])
    writer.writerows(rows)
    return out.getvalue()


@dataclass(frozen=True)
class Sent:
    """How much of a run has reached the store, kept there in one tag, written with the points themselves.

    `time_ms` of the last point proves that the journal still begins with what was sent. It does not after `--force`, or
    when a failed run was sent to its end and then tried again from its checkpoint.
    """

    count: int = 0
    time_ms: int = 0

    @classmethod
    def up_to(cls, points: tuple[Point, ...], count: int) -> Sent:
        return cls(count, points[count - 1].time_ms) if count else cls()

    @classmethod
    def parse(cls, tag: str | None) -> Sent:
        return cls(*map(int, tag.split("@"))) if tag else cls()

    def __str__(self) -> str:
        return f"{self.count}@{self.time_ms}"

    def begins(self, points: tuple[Point, ...]) -> bool:
        return self.count <= len(points) and Sent.up_to(points, self.count) == self
