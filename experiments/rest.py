"""States of many runs at once. What is at rest stays as it is, so it is not read again while its folder is unchanged.

A state at rest follows from status.json and results.json, which are replaced whole: whoever changes them changes the
modification time of the run's folder, and that is one look. The index may be lost at any time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments import schema
from experiments.durable import read_json, replace_text
from experiments.reconcile import RunState, state_of
from experiments.states import AT_REST

SETTLED_SECONDS = 2.0  # a change that soon after another may leave the modification time as it was
VERSION = 1

Entry = dict[str, Any]


def states_of(root: Path, run_ids: Iterable[str]) -> dict[str, RunState]:
    """run id -> its true state, in the order given."""
    changed, index = _changed(root), _read(root)
    fresh: dict[str, Entry] = {}
    found: dict[str, RunState] = {}
    for run_id in run_ids:
        entry, moment = index.get(run_id), changed.get(run_id)
        if moment is None:
            found[run_id] = RunState(schema.MISSING)
        elif entry is not None and entry["changed"] == moment:
            found[run_id] = RunState(**entry["state"])
        else:
            state = found[run_id] = state_of(root / run_id)
            if state.state in AT_REST and time.time() - moment / 1e9 > SETTLED_SECONDS:
                fresh[run_id] = {"changed": moment, "state": _plain(state)}
    if fresh:
        _write(root, {run_id: entry for run_id, entry in (index | fresh).items() if run_id in changed})
    return found


def _changed(root: Path) -> dict[str, int]:
    """Folder -> when it was changed, nanoseconds; empty where there is no root yet."""
    with suppress(FileNotFoundError), os.scandir(root) as entries:
        return {entry.name: entry.stat().st_mtime_ns for entry in entries if not entry.name.startswith(".")}
    return {}


def _plain(state: RunState) -> dict[str, Any]:
    return {name: value for name, value in vars(state).items() if value is not None and value is not False}


def _read(root: Path) -> dict[str, Entry]:
    try:
        index = read_json(root / schema.AT_REST_INDEX) or {}
    except ValueError:
        return {}
    return index["runs"] if index.get("version") == VERSION else {}


def _write(root: Path, index: dict[str, Entry]) -> None:
    """One who may only read does without."""
    with suppress(OSError):
        replace_text(
            root / schema.AT_REST_INDEX, json.dumps({"version": VERSION, "runs": index}, separators=(",", ":"))
        )
