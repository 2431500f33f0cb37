"""One run directory, read only: its state, readouts, provenance and journal. What cannot be read is named, not guessed.

The directory may be written to while it is read: status and results are replaced atomically, the journal is append-only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from experiments import schema
from experiments.states import device_seconds, judge, rests


@dataclass(frozen=True)
class Run:
    """`state` is the one to believe now; readouts are those of a finished run, percent, absent when missing."""

    state: str
    reason: str = ""
    diverged: bool = False
    step: int | None = None
    total_steps: int | None = None
    readouts: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    device_seconds: float | None = None  # of all attempts, those that failed among them, times the processes of each
    commits: tuple[str, ...] = ()  # of all attempts; `0123456+89ab` had uncommitted changes
    hardware: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    settled: bool = False  # its files alone say so: no lock, heartbeat or process was asked


def read_object(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """A JSON object; None when there is no file, or when it is damaged, which is added to `problems`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: unreadable ({error})")
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        problems.append(f"{path}:{error.lineno}: damaged ({error.msg}); not used")
        return None
    if not isinstance(value, dict):
        problems.append(f"{path}:1: damaged (not a JSON object); not used")
        return None
    return value


def read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The JSON objects of an append-only file, damaged lines left out and named.

    What follows the last newline is being written, or was when its writer died: it passes in silence.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{path}: unreadable ({error})")
        return []
    records = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        record = _parse(line)
        if record is None:
            problems.append(f"{path}:{number}: damaged line; left out, the rest is used")
        else:
            records.append(record)
    return records


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_journal(run_dir: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Metric records in order, without those that a resume made void: {"resumed_at": s} voids earlier steps above s."""
    records: list[dict[str, Any]] = []
    for record in read_lines(run_dir / schema.JOURNAL, problems):
        if "resumed_at" in record:
            kept_to = record["resumed_at"]
            records = [r for r in records if r["step"] <= kept_to]
        elif isinstance(record.get("step"), int) and isinstance(record.get("values"), dict):
            records.append(record)
    return records


def _number(value: Any) -> float | None:
    """A finite number; anything else is missing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _version(attempt: dict[str, Any]) -> str:
    """`0123456`, or `0123456+89ab` with the hash of the uncommitted changes."""
    uncommitted = attempt.get("uncommitted")
    return f"{attempt['commit'][:7]}+{uncommitted[:7]}" if uncommitted else str(attempt["commit"])[:7]


def read_run(run_dir: Path) -> Run:
    """A directory without a config is a run that is `missing`; readouts are given for finished runs only."""
    if not (run_dir / schema.CONFIG).exists():
        return Run(schema.MISSING)
    problems: list[str] = []
    status = read_object(run_dir / schema.STATUS, problems) or {}
    results = read_object(run_dir / schema.RESULTS, problems)
    attempts = read_lines(run_dir / schema.ATTEMPTS, problems)
    state, reason = judge(run_dir, cast(schema.Status, status), lambda: results is not None, of_job=None)
    test = results.get("test") if results and state == schema.DONE else None
    numbers = {k: _number(v) for k, v in test.items()} if isinstance(test, dict) else {}
    return Run(
        state=state,
        reason=reason or "",
        diverged=bool(status.get("diverged")) and state == schema.FAILED,
        step=status.get("step"),
        total_steps=status.get("total_steps"),
        readouts={k: v for k, v in numbers.items() if v is not None},
        seconds=_number(results.get("seconds")) if results and state == schema.DONE else None,
        device_seconds=device_seconds(attempts),
        commits=tuple(dict.fromkeys(_version(a) for a in attempts if a.get("commit"))),
        hardware=tuple(dict.fromkeys(str(a["hardware"]) for a in attempts if a.get("hardware"))),
        problems=tuple(problems),
        settled=rests(str(status.get("state")), lambda: results is not None),
    )
