"""One run directory, read only: its state, readouts, provenance and journal. What cannot be read is named, not guessed.

The directory may be written to while it is read: status and results are replaced atomically, the journal is append-only.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import schema


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


def lock_is_held(run_dir: Path) -> bool:
    """Whether a worker holds the run's lock, asked without writing; the question itself lasts an instant."""
    try:
        handle = (run_dir / schema.LOCK).open("rb")
    except OSError:
        return False
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _process_is_gone(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return True
    except PermissionError:
        return False
    return False


def _queued(status: dict[str, Any]) -> tuple[str, str]:
    """A queue lives in its launcher, and one on this machine that has ended will start nothing; or it is Slurm's."""
    if status.get("job"):  # whether the job still waits, only Slurm knows: `python -m experiments status` asks it
        return schema.QUEUED, f"job {status['job']}"
    if status.get("host") != socket.gethostname() or not _process_is_gone(status.get("pid")):
        return schema.QUEUED, ""
    return schema.PREEMPTED if status.get("step") else schema.MISSING, "was queued by a launcher that has ended"


def _silent(run_dir: Path, status: dict[str, Any]) -> tuple[str, str]:
    """Says `running`, but no process of this machine holds the lock."""
    if status.get("host") == socket.gethostname():
        return schema.LOST, "its process ended without a word"
    try:
        silence = time.time() - (run_dir / schema.HEARTBEAT).stat().st_mtime
    except OSError:
        return schema.LOST, "no heartbeat"
    if silence < schema.STALE_SECONDS:
        return schema.RUNNING, ""
    return schema.LOST, f"no heartbeat for {silence / 60:.0f} min"


def _at_rest(said: str, results: dict[str, Any] | None) -> bool:
    return said in (schema.FAILED, schema.CANCELLED, schema.PRUNED) or (said == schema.DONE and results is not None)


def _state(run_dir: Path, status: dict[str, Any], results: dict[str, Any] | None) -> tuple[str, str]:
    """State and reason, by the rules of `experiments.reconcile`: results make a run done, a lock makes it running."""
    said, reason = str(status.get("state") or schema.MISSING), str(status.get("reason") or "")
    if _at_rest(said, results):
        return said, reason
    if lock_is_held(run_dir):
        return schema.RUNNING, ""
    if results is not None:
        return schema.DONE, ""
    if said == schema.DONE:
        return schema.LOST, f"{schema.RESULTS} is gone or damaged"
    if said == schema.QUEUED:
        return _queued(status)
    return _silent(run_dir, status) if said == schema.RUNNING else (said, reason)


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
    state, reason = _state(run_dir, status, results)
    test = results.get("test") if results and state == schema.DONE else None
    numbers = {k: _number(v) for k, v in test.items()} if isinstance(test, dict) else {}
    return Run(
        state=state,
        reason=reason,
        diverged=bool(status.get("diverged")) and state == schema.FAILED,
        step=status.get("step"),
        total_steps=status.get("total_steps"),
        readouts={k: v for k, v in numbers.items() if v is not None},
        seconds=_number(results.get("seconds")) if results and state == schema.DONE else None,
        commits=tuple(dict.fromkeys(_version(a) for a in attempts if a.get("commit"))),
        hardware=tuple(dict.fromkeys(str(a["hardware"]) for a in attempts if a.get("hardware"))),
        problems=tuple(problems),
        settled=_at_rest(str(status.get("state")), results),
    )
