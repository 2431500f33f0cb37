"""The one reader of journals, held against what each line means, and the worker's running account against the reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.store.journal import Record, add_line, last_values, read_journal
from experiments.store.run import RunDirectory


def record(step: int, **values: float) -> Record:
    return {"step": step, "epoch": step / 10, "time": 1000.0 + step, "values": values}


LINES: list[dict[str, Any]] = [
    record(10, a=1.0),
    record(20, a=2.0, b=5.0),
    record(30, a=3.0),
    {"resumed_at": 20},
    record(30, a=30.0),
    record(40, a=40.0),
    {"resumed_at": 10},
    record(20, a=200.0),
]


def test_each_resume_voids_the_later_steps_before_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"step": 30, "val')
    records, damaged = read_journal(path)
    assert [(r["step"], r["values"]) for r in records] == [(10, {"a": 1.0}), (20, {"a": 200.0})]
    assert damaged == []
    assert last_values(records) == {"a": 200.0}


def test_adding_line_by_line_is_reading_the_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    records: list[Record] = []
    for number, line in enumerate(LINES, start=1):
        assert add_line(records, line)
        path.write_text("".join(json.dumps(line) + "\n" for line in LINES[:number]))
        assert read_journal(path).records == records


@pytest.mark.parametrize(
    "damage",
    [
        b"not json",
        b"\xff\xfe",
        b"[1, 2]",
        b'"text"',
        b"{}",
        b'{"step": 1, "epoch": 0.1, "time": 1.0}',
        b'{"step": "1", "epoch": 0.1, "time": 1.0, "values": {}}',
        b'{"step": 1, "epoch": null, "time": 1.0, "values": {}}',
        b'{"step": 1, "epoch": 0.1, "time": 1.0, "values": [1]}',
        b'{"resumed_at": "0"}',
        b'{"resumed_at": null}',
    ],
)
def test_a_line_that_is_none_of_a_journal_is_numbered_and_changes_nothing(
    tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path)
    path = tmp_path / "journal.jsonl"
    path.write_bytes(json.dumps(record(10, a=1.0)).encode() + b"\n" + damage + b"\n" + b'{"resumed_at": 10}\n')
    assert read_journal(path) == ([record(10, a=1.0)], [2])
    assert run.records() == [record(10, a=1.0)]
    assert capsys.readouterr().err == f"warning: {path}, line 2: damaged, left out; the rest is used\n"


def test_no_file_is_an_empty_journal(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "journal.jsonl") == ([], [])
