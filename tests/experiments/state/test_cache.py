"""States by the index of runs at rest. Oracle: `state_of`, which reads each run anew; and the number of such reads."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from experiments.state import state as rest
from experiments.state.state import RunState, state_of, states_of
from experiments.store import schema
from experiments.store.files import replace_json
from experiments.store.run import RunDirectory
from tests.support.stand_in_runs import cell, prepared

RESULTS = {"test": {"linear_top1": 90.0}, "seconds": 3.0, "steps": 10}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that were read."""
    names: list[str] = []

    def noted(path: Path) -> RunState:
        names.append(path.name)
        return state_of(path)

    monkeypatch.setattr(rest, "state_of", noted)
    return names


def store(root: Path) -> dict[str, RunDirectory]:
    """One run in each state, written long ago."""
    runs = {state: prepared(root, cell(seed=seed)) for seed, state in enumerate(schema.STATES)}
    for state, run in runs.items():
        if state == schema.DONE:
            replace_json(run.path / schema.RESULTS, RESULTS)
        run.write_status(schema.Status(state=state, reason=f"because {state}", step=3, total_steps=10))
    settle(runs)
    return runs


def settle(runs: dict[str, RunDirectory]) -> None:
    past = time.time() - 60
    for run in runs.values():
        if run.path.exists():
            os.utime(run.path, (past, past))


def anew(root: Path, ids: list[str]) -> dict[str, RunState]:
    return {run_id: state_of(root / run_id) for run_id in ids}


def test_states_are_those_of_every_single_run_and_rest_is_read_once(tmp_path: Path, read: list[str]) -> None:
    runs = store(tmp_path)
    ids = [run.run_id for run in runs.values()] + ["0" * 16]
    assert states_of(tmp_path, ids) == anew(tmp_path, ids)
    at_rest = {run.run_id for state, run in runs.items() if state in rest.AT_REST}
    assert set(read) == set(ids) - {"0" * 16}
    read.clear()
    assert states_of(tmp_path, ids) == anew(tmp_path, ids)
    assert set(read) == set(ids) - at_rest - {"0" * 16}


@pytest.mark.parametrize(
    "change", ["retry", "results gone", "directory gone", "index damaged", "index of another version"]
)
def test_a_change_is_seen(tmp_path: Path, change: str) -> None:
    runs = store(tmp_path)
    ids = [run.run_id for run in runs.values()]
    states_of(tmp_path, ids)
    index = tmp_path / schema.AT_REST_INDEX
    assert set(json.loads(index.read_text())["runs"]) == {runs[state].run_id for state in rest.AT_REST}
    if change == "retry":
        runs[schema.FAILED].write_status(schema.Status(state=schema.QUEUED))
    elif change == "results gone":
        (runs[schema.DONE].path / schema.RESULTS).unlink()
    elif change == "directory gone":
        shutil.rmtree(runs[schema.CANCELLED].path)
    elif change == "index damaged":
        index.write_text("{")
    else:
        index.write_text(json.dumps({"version": 0, "runs": {ids[0]: {"changed": 0}}}))
    assert states_of(tmp_path, ids) == anew(tmp_path, ids)


def test_what_changed_a_moment_ago_is_not_trusted(tmp_path: Path, read: list[str]) -> None:
    """Two changes may share a time stamp."""
    run = prepared(tmp_path, cell())
    run.write_status(schema.Status(state=schema.FAILED, reason="x"))
    for _ in range(2):
        states_of(tmp_path, [run.run_id])
    assert read == [run.run_id] * 2
    assert not (tmp_path / schema.AT_REST_INDEX).exists()


def test_a_store_that_may_only_be_read_does_without_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = store(tmp_path)

    def refuse(path: Path, text: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(rest, "replace_text", refuse)
    ids = [run.run_id for run in runs.values()]
    assert states_of(tmp_path, ids) == anew(tmp_path, ids)
