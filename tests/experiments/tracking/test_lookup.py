"""`find` by an MLflow run id, in the embedded store and in one of the user's own. Oracle: the store, read as SQLite."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from experiments.state.find import find
from experiments.store import schema
from experiments.store.mlflow import QUIET
from experiments.tracking.lookup import run_id_of
from experiments.tracking.sync import sync
from tests.support import tracking_runs as runs
from tests.support.tracking_content import query

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

IDS = "select run_uuid, value from tags where key = 'moco.run_id'"


@pytest.mark.parametrize("own", [False, True], ids=["embedded", "own"])
def test_an_mlflow_run_id_leads_to_its_run(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root, store = tmp_path / "runs", tmp_path / ("elsewhere" if own else "runs")
    for folder in {root, store}:
        folder.mkdir()
    shutil.copy(runs.fresh_store(tmp_path_factory.getbasetemp()), store / schema.MLFLOW_DATABASE)
    if own:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / schema.MLFLOW_DATABASE}")
    cell = runs.planned(root)["cells"][0]
    runs.finish(root, cell)
    sync(root)
    shown = {run_id: mlflow_id for mlflow_id, run_id in query(store, IDS)}
    (found,) = find(root, shown[cell["run_id"]], tracked=run_id_of)
    assert (found.run_id, found.arm, found.seed) == (cell["run_id"], cell["arm"], cell["seed"])
    with pytest.raises(ValueError, match=r"^f{32}: no sweep, arm, run, job or MLflow run of that name in "):
        find(root, "f" * 32, tracked=run_id_of)
