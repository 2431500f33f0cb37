"""A search in MLflow: its study on the parent, its trials below, each found from the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments.store import schema
from experiments.store.files import replace_json
from experiments.store.mlflow import QUIET
from experiments.store.schema import SearchRecord, TrialRecord
from experiments.store.search_record import record_path
from experiments.tracking.sync import sync
from tests.support import tracking_runs as runs
from tests.support.tracking_content import content

# mlflow's own use of an older SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
LABEL = "search_k@digits"
VALUES = [80.0, 85.0, None, 83.0, 91.0]  # per trial; the third was pruned


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


def trial(number: int, cell: schema.Cell, value: float | None) -> TrialRecord:
    return TrialRecord(
        number=number,
        state=schema.DONE if value is not None else schema.PRUNED,
        run_id=cell["run_id"],
        config=cell["config"],
        settings={"negatives.size": cell["arm"].removeprefix("K=")},
        values=None if value is None else [value],
        ended=runs.iso(300 - 10 * (number == 1)),  # the second ended before the first
    )


def record(trials: list[TrialRecord], cell: schema.Cell) -> SearchRecord:
    plain: Any = {
        "store_version": schema.STORE_VERSION,
        "name": "search_k",
        "label": LABEL,
        "study": LABEL,
        "storage": "journal",
        "ranking": [],
        "front": [],
        "question": "Which K?",
        "base": "digits",
        "base_config": cell["config"],
        "metrics": [schema.KNN20],
        "space": {"negatives.size": {"kind": "choice", "options": ["128"]}},
        "directions": ["maximize"],
        "limits": {},
        "sampler": "tpe",
        "pruner": "median",
        "seed": 0,
        "budget": 5,
        "command": "python sweeps/search_k.py --trials 5",
        "trials": trials,
        "importances": {schema.KNN20: {"negatives.size": 0.75}},
        "failure": None,
        "updated": runs.iso(0),
    }
    made: SearchRecord = plain
    return made


def write(root: Path, cells: list[schema.Cell], count: int) -> None:
    """The record after so many trials, with their runs."""
    for cell, value in list(zip(cells, VALUES, strict=True))[:count]:
        if (root / cell["run_id"]).exists():
            continue
        if value is None:
            run = runs.start(root, cell)
            runs.log(run, 0, range(10, 61, 10))
            runs.end(run, schema.PRUNED, 60, reason="worse than the median")
        else:
            runs.finish(root, cell)
    trials = [trial(number, cell, VALUES[number]) for number, cell in enumerate(cells[:count])]
    path = record_path(root, LABEL)
    path.parent.mkdir(exist_ok=True)
    replace_json(path, record(trials, cells[0]))


def test_a_search_is_shown_as_it_goes_with_its_best_values_importances_and_trials(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    fresh = runs.fresh_store(tmp_path_factory.getbasetemp())
    shutil.copy(fresh, root / schema.MLFLOW_DATABASE)
    sizes = (128, 256, 512, 640, 1024)
    planned = runs.planned(tmp_path / "elsewhere", sizes=sizes, seeds=1)["cells"]
    cells = [cell for cell in planned if cell["arm"] != schema.RANDOM_INIT]
    write(root, cells, 3)
    assert sync(root).warnings == ()
    assert content(root)[LABEL, "search search_k"]["times"][0] == "KILLED"  # open, and nothing runs
    write(root, cells, 5)
    assert sync(root, "search_k").warnings == ()
    shown = content(root)
    parent = shown[LABEL, "search search_k"]

    assert parent["times"][0] == "FINISHED"
    tags = {
        key: value for key, value in parent["tags"].items() if not key.startswith(("mlflow.", "moco.s", "moco.files"))
    }
    assert tags == {"moco.trial": "4", "best.negatives.size": "1024", "importance.negatives.size": "0.750"}
    assert parent["tags"]["moco.study"] == LABEL
    ended = [(1, 85.0), (0, 80.0), (3, 83.0), (4, 91.0)]  # in the order of their ends
    best = [max(value for _, value in ended[: i + 1]) for i in range(4)]
    time = {number: runs.at_ms(290 if number == 1 else 300) for number, _ in ended}
    assert parent["metrics"] == sorted(
        [("study/knn20_top1", n, time[n], v) for n, v in ended]
        + [("study/best", n, time[n], b) for (n, _), b in zip(ended, best, strict=True)]
    )
    assert json.loads(parent["files"]["search.json"])["trials"][4]["values"] == [91.0]
    assert "| 4 | 91 | 1024 |" in parent["tags"]["mlflow.note.content"]

    pruned = shown[LABEL, "trial-2 seed=0"]
    assert pruned["times"][0] == "KILLED"
    assert {key: pruned["tags"][key] for key in ("moco.state", "moco.study", "moco.trial", "mlflow.parentRunId")} == {
        "moco.state": "pruned",
        "moco.study": LABEL,
        "moco.trial": "2",
        "mlflow.parentRunId": "search search_k",
    }
    again = "python -m experiments pretrain --baseline digits --set negatives.size=512"
    assert again in pruned["tags"]["mlflow.note.content"]

    assert sync(root).runs == 0
    shutil.rmtree(root / schema.MLFLOW_ARTIFACTS)
    shutil.copy(fresh, root / schema.MLFLOW_DATABASE)
    sync(root)
    assert content(root) == shown
