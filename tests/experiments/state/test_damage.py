"""A damaged file harms its own run, and every reader judges it alike. Oracle: the analysis' reader beside the launcher's."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.frame import read_run
from experiments.state.state import state_of, states_of
from experiments.store import schema
from tests.support.analysis_runs import readouts, write_run

DAMAGE = ["", "not json", "[]", "7", "null", '{"state": 7}', '{"state": "failed", "step": "x", "test": []}']


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_status_says_nothing(tmp_path: Path, damage: str, finished: bool) -> None:
    test = readouts(97.0, 95.0, 92.0, 85.0) if finished else None
    path = write_run(tmp_path, "K=64", 0, test, state=schema.DONE if finished else schema.FAILED)
    beside = write_run(tmp_path, "K=64", 1, readouts(97.0, 95.0, 92.0, 85.0))
    (path / schema.STATUS).write_text(damage)
    found = state_of(path)
    assert found.state == read_run(path).state == (schema.DONE if finished else schema.MISSING)
    assert (found.reason or "").startswith(f"{path / schema.STATUS}: damaged, ")
    states = states_of(tmp_path, [path.name, beside.name])
    assert [state.state for state in states.values()] == [found.state, schema.DONE]


@pytest.mark.parametrize("damage", DAMAGE[:5] + DAMAGE[6:])
def test_damaged_results_are_none(tmp_path: Path, damage: str) -> None:
    path = write_run(tmp_path, "K=64", 0, readouts(97.0, 95.0, 92.0, 85.0))
    (path / schema.RESULTS).write_text(damage)
    found = state_of(path)
    assert (found.state, found.reason) == (schema.LOST, f"{schema.RESULTS} is gone or damaged")
    assert (read_run(path).state, read_run(path).reason) == (found.state, found.reason)
