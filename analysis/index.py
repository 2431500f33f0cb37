"""What was read of runs at rest, kept in `$MOCO_RUNS/.analysis/<sweep>.json`: a table of thousands opens no file twice.

It is a cache and nothing else: an entry counts while the files it was read from have the same inode, size and time of change;
a file that is damaged, or was written by other code, is read as if it were not there. Writers replace the whole file at once,
so readers and other writers never see half of one; of two at a time one wins, and the other's entries are read again.
Only what the files alone decide is kept: a run that may be running, queued or lost is asked each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Final

from analysis import runs
from analysis.runs import Run, read_run
from experiments import schema, states

FOLDER: Final = ".analysis"
WORTH_IT: Final = 200  # runs; fewer are read as quickly without
READ_FILES: Final = (schema.CONFIG, schema.STATUS, schema.ATTEMPTS, schema.RESULTS)
# A file that is changed twice within a clock tick may look the same after both: what changed just now is not kept.
SETTLED_NS: Final = 2_000_000_000

Signature = list[list[int] | None]
Entry = list[Any]  # signature, then the fields of Run


@cache
def _code() -> str:
    made_by = (runs.__file__, states.__file__, __file__)
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in made_by)).hexdigest()[:16]


def _signature(run_dir: str) -> Signature:
    found: Signature = []
    for name in READ_FILES:
        try:
            facts = os.stat(f"{run_dir}/{name}")
        except OSError:
            found.append(None)
        else:
            found.append([facts.st_ino, facts.st_size, facts.st_mtime_ns])
    return found


def read_runs(root: Path, label: str, run_ids: Iterable[str]) -> dict[str, Run]:
    """Every run of a sweep, as `read_run` gives it."""
    wanted = list(run_ids)
    if len(wanted) < WORTH_IT:
        return {run_id: read_run(root / run_id) for run_id in wanted}
    path = root / FOLDER / f"{label}.json"
    known, found, kept = load(path), {}, {}
    now = time.time_ns()
    for run_id in wanted:
        signature = _signature(f"{root}/{run_id}")
        entry = known.get(run_id)
        if entry is not None and entry[0] == signature:
            found[run_id], kept[run_id] = Run(*entry[1:]), entry
            continue
        run = found[run_id] = read_run(root / run_id)
        if run.settled and all(f is None or f[2] < now - SETTLED_NS for f in signature):
            kept[run_id] = [signature, *_fields(run)]
    if kept != known:
        _store(path, kept)
    return found


def _fields(run: Run) -> list[Any]:
    values = [getattr(run, field.name) for field in fields(run)]
    return [dict(v) if isinstance(v, Mapping) else list(v) if isinstance(v, tuple) else v for v in values]


def load(path: Path) -> dict[str, Entry]:
    """The entries of a sound index of this code; none otherwise."""
    try:
        head, _, body = path.read_text(encoding="utf-8").partition("\n")
        code, digest = head.split()
    except (OSError, ValueError):
        return {}
    if code != _code() or digest != hashlib.sha256(body.encode()).hexdigest():
        return {}
    entries: dict[str, Entry] = json.loads(body)
    return entries


def _store(path: Path, entries: Mapping[str, Entry]) -> None:
    """A folder that may not be written to only costs time."""
    body = json.dumps(entries, separators=(",", ":"))
    new = path.with_name(f"{path.name}.{os.getpid()}.{time.time_ns()}")
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        try:
            new.write_text(f"{_code()} {hashlib.sha256(body.encode()).hexdigest()}\n{body}", encoding="utf-8")
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
