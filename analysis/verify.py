"""`verify`: does a table still agree with the runs? Compares its seal with the store, difference by difference."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from analysis import rule_one, words
from analysis.ablation import ablation_table
from analysis.formats import render
from analysis.frame import Log, load_sweep, to_stderr
from analysis.seal import RUN_FIELDS, Seal, numbers, seals_in
from analysis.table import Row, Table

SEAL_NOTE: Final = re.compile(r"Seal [0-9a-f]{12}: ")  # the note that names the seal, which is not compared
NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")
DRAWING: Final = re.compile(r'<svg class="interval".*?</svg>| drawn(?=">)')
ARM_CELL: Final = re.compile(
    r"(<tr[^>]*>)?(<th[^>]*>)?[|\s]*(\*\*)?"
)  # what stands before the name of an arm in its row
Run = list[Any]  # arm, seed, run id, state, then {field: value}


def verify(path: Path, root: Path, log: Log = to_stderr) -> list[str]:
    """What has changed since the file was made, a line each; empty if nothing has.

    Raises ValueError for a file without a sound seal and for a sweep that the store does not have.
    """
    return [line for seal in seals_in(path) for line in _changes(seal, root, log)]


def _changes(seal: Seal, root: Path, log: Log) -> Iterator[str]:
    then: dict[str, Any] = {**seal.inputs}
    manifest, cells = load_sweep(root, then["label"], log)
    table = ablation_table(manifest, cells, metric=then["metric"])
    now: dict[str, Any] = dict(table.inputs)
    before = rule_one.rows(manifest, cells, then["metric"], table.rows)
    if "metric" not in then["plan"]:  # seals did not say, before it was in them, which readout the plan is for
        then["plan"] = {**then["plan"], "metric": now["plan"]["metric"]}
    runs = list(_runs(_named(then), _named(now)))
    yield from runs
    yield from cells["problems"].explode().drop_nulls() if runs else ()
    for name in sorted({*then["plan"], *now["plan"]}):
        if then["plan"].get(name) != now["plan"].get(name):
            yield f"plan: {name} was {_shown(then['plan'].get(name))}, is {_shown(now['plan'].get(name))}"
    if then["baseline"] != now["baseline"]:
        yield f"plan: the baseline was {then['baseline']}, is {now['baseline']}"
    same = not runs and then["plan"] == now["plan"] and then["baseline"] == now["baseline"]
    if seal.version == 1:
        log("its seal is of format 1: numbers are compared, its hash of source files is not")
    elif then["rule"] == rule_one.RULE:
        log("made under rule 1 for a claim: its numbers are compared with what that rule makes of the runs")
        now["numbers"] = numbers(before)
    elif then["rule"] != now["rule"]:
        yield from _rules(then["rule"], now["rule"])
    if seal.edited:
        today = (
            then.get("rule") == table.inputs["rule"]
        )  # else the wording is another, and only numbers can be compared
        where = _first_difference(seal, table) if same and today else None
        if same and not today:
            where = next(_lost_numbers(seal, table, before), None)
        yield f"the file: its table was edited after it was made{f'; {where}' if where else ''}"
    elif same:
        yield from _numbers(then["numbers"], now["numbers"]) if seal.version > 1 else _lost_numbers(seal, table, before)


def _rules(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            yield f"the rule for a claim: {name} was {_shown(then.get(name))}, is {_shown(now.get(name))}"


def _numbers(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Numbers that differ although the runs are the same."""
    for arm, before in then.items():
        after = now[arm]
        for name, old in before.items():
            if old != after.get(name):
                yield f"{arm}: of the same runs {name} was {_shown(old)}, is {_shown(after.get(name))}"


def _lost_numbers(seal: Seal, table: Table, before: Sequence[Row]) -> Iterator[str]:
    """For seals of format 1: lines of the file with a number that the arm's lines in a table made now do not have.

    `before`: the rows with the numbers of rule 1, under which those seals were made.
    """
    then = replace(table, rows=tuple(before))
    made = [
        (line, Counter(NUMBER.findall(line)) + _p_values(line, before))
        for line in _lines(render(then, seal.format, view=seal.view), seal.format)
    ]
    for number, line in enumerate(_lines(seal.body, seal.format), start=1):
        arm = next((row.arm for row in table.rows if ARM_CELL.fullmatch(line.split(row.arm)[0])), None)
        if arm is None:
            continue
        said = Counter(NUMBER.findall(line))
        if not any(said <= after for other, after in made if arm in other):
            yield f"line {number} of the table: the same runs make other numbers of {arm}"


def _p_values(line: str, rows: Sequence[Row]) -> Counter[str]:
    """The numbers in the p column that rule 1 printed for an arm."""
    row = next((row for row in rows if ARM_CELL.fullmatch(line.split(row.arm)[0])), None)
    return Counter(NUMBER.findall(" ".join(map(words.p_value, rule_one.p_values(row))) if row else ""))


def _shown(value: Any) -> str:
    return "nothing" if value in (None, "", {}, []) else str(value)


def _named(inputs: dict[str, Any]) -> list[Run]:
    """The runs of a seal, with their values by name, since the list of readouts may have changed."""
    fields = inputs.get("fields", RUN_FIELDS)
    return [[*run[:4], dict(zip(fields, run[4:], strict=True))] for run in inputs["runs"]]


def _runs(then: list[Run], now: list[Run]) -> Iterator[str]:
    before, after = ({(run[0], run[1]): run for run in runs} for runs in (then, now))
    for place, run in before.items():
        name = f"{place[0]} seed {place[1]}"
        if place not in after:
            yield f"{name} ({run[2]}): no longer planned"
        elif after[place][2] != run[2]:
            yield f"{name}: was run {run[2]}, is run {after[place][2]}: its config has changed"
        else:
            yield from (f"{name} ({run[2]}): {change}" for change in _values(run, after[place]))
    for place, run in after.items():
        if place not in before:
            yield f"{place[0]} seed {place[1]} ({run[2]}): planned since, {run[3]}"


def _values(before: Run, after: Run) -> Iterator[str]:
    if before[3] != after[3]:
        yield f"was {before[3]}, is {after[3]}"
    for name, old in before[4].items():
        new = after[4].get(name)
        if old != new and (before[3] == after[3] or old not in (None, [])):
            yield f"{name} was {_shown(old)}, is {_shown(new)}"


def _first_difference(seal: Seal, table: Table) -> str | None:
    """The first line in which the file and a table made now differ."""
    made = _lines(render(table, seal.format, view=seal.view), seal.format)
    found = _lines(seal.body, seal.format)
    if seal.format == "html":  # of the fragment, the part under the seal
        start = next((i for i, line in enumerate(made) if "sealed table" in line), -1) + 1
        made = made[start : start + len(found)]
    elif seal.format != "csv":
        made = made[1:-1]
    else:
        made = [line.rpartition(",")[0] for line in made]
    for number, (ours, theirs) in enumerate(zip(made, found, strict=False), start=1):
        if ours != theirs and not (SEAL_NOTE.search(ours) and SEAL_NOTE.search(theirs)):
            is_now, should_be = _around(theirs, ours)
            return f"line {number} of the table has {is_now!r}, should have {should_be!r}"
    return None if len(made) == len(found) else f"it has {len(found)} lines, should have {len(made)}"


def _around(one: str, other: str, context: int = 24) -> tuple[str, str]:
    """The parts of two lines that differ, with some characters before and after."""
    begin = _shared(one, other)
    end = min(_shared(one[::-1], other[::-1]), len(one) - begin, len(other) - begin)
    first, last = max(0, begin - context), max(0, end - context // 2)
    return one[first : len(one) - last], other[first : len(other) - last]


def _shared(one: str, other: str) -> int:
    """The number of characters that both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _lines(text: str, format: str) -> list[str]:
    """Without the drawings of an HTML table: they say what its words say, and have other places in other versions."""
    plain = DRAWING.sub("", html.unescape(text)) if format == "html" else text
    return [line.rstrip() for line in plain.strip().splitlines()]
