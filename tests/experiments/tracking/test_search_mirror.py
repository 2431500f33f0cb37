"""Searches of every sampler and pruner reach MLflow whole: continued, with another space, over a limit.

Oracles: MLflow's own store read as SQL, Optuna's importances, the exit code of `sync`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.search import find_search, table
from experiments.__main__ import main as experiments
from experiments.search.definition import PRUNERS, SAMPLERS, Complement, Log, Powers, Search, plan
from experiments.search.export import importances
from experiments.search.storage import quiet
from experiments.search.study import Ended
from experiments.search.worker import SearchWorker, excess, reporting
from experiments.store import schema
from experiments.store.files import replace_json
from experiments.store.mlflow import QUIET
from experiments.store.search_record import by_field
from experiments.tracking.study import study_tags
from moco.config.plain import to_plain
from sweeps.search_moco import SEARCH as MOCO
from tests.support import tracking_runs as runs
from tests.support.postgres_server import postgres
from tests.support.search_toy import begun, known, opened, value
from tests.support.tracking_content import query

# mlflow's own use of an older SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
TRIALS = 6
COMBINATIONS = [
    *((sampler, "none") for sampler in SAMPLERS),
    *(("random", pruner) for pruner in PRUNERS if pruner != "none"),
]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value_of in QUIET.items():
        monkeypatch.setenv(name, value_of)


def trained(worker: SearchWorker, trial: Any, cell: Any) -> Ended:
    """A run directory as a finished or pruned run leaves it, with eight evaluations that approach the formula's value."""
    record = worker.study.record
    plain = schema.Cell(arm=cell.arm, seed=cell.seed, run_id=cell.run_id, config=to_plain(cell.config))
    report = reporting(trial, record)
    for epoch in range(1, 9):
        why = report(epoch * 5, value(cell.config) * (1 - 0.5**epoch))
        if why is not None:
            if not (worker.root / cell.run_id).exists():
                run = runs.start(worker.root, plain)
                runs.log(run, 0, range(10, 61, 10))
                runs.end(run, schema.PRUNED, 60, reason=why)
            return Ended(schema.PRUNED, reason=why)
    if not (worker.root / cell.run_id).exists():
        runs.finish(worker.root, plain)
    hours = cell.config.negatives.size / 1024
    return Ended(
        schema.DONE, (value(cell.config),), hours=hours, constraints=excess(record["limits"], {"hours": hours})
    )


def search(**changes: Any) -> Search:
    return replace(MOCO, name="moco", budget=TRIALS, **changes)


def carry_on(path: Path, budget: int) -> None:
    replace_json(path, {**known(path), "budget": budget})
    assert SearchWorker.on(path, trained).work()


def tags_of_the_parent(root: Path) -> dict[str, str]:
    found = query(
        root,
        "select t.key, t.value from tags t join runs r using (run_uuid) where r.lifecycle_stage = 'active' "
        "and r.name = 'search moco'",
    )
    return dict(found)


def shown(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): text for key, text in tags.items() if key.startswith(prefix)}


@pytest.mark.parametrize(("sampler", "pruner"), COMBINATIONS)
def test_a_search_is_mirrored_whole_continued_and_with_another_space(
    sampler: str,
    pruner: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    monkeypatch.setenv("MOCO_RUNS", str(root))
    shutil.copy(runs.fresh_store(tmp_path_factory.getbasetemp()), root / schema.MLFLOW_DATABASE)
    asked = search(sampler=sampler, pruner=pruner, limits={"hours": 0.6})
    path = begun(root, asked, settings=["evaluation.knn_every=5"])
    assert SearchWorker.on(path, trained).work()
    assert experiments(["sync"]) == 0
    carry_on(path, TRIALS + 1)
    assert experiments(["sync"]) == 0
    capsys.readouterr()
    assert experiments(["sync"]) == 0
    assert capsys.readouterr().out.startswith("MLflow: up to date (")

    record, tags = known(path), tags_of_the_parent(root)
    assert set(shown(tags, "importance.")) <= set(MOCO.space)
    assert shown(tags, "importance.") == {
        field: f"{share:.3f}" for field, share in importances(opened(path), record).get(schema.KNN20, {}).items()
    }
    ended = [t for t in record["trials"] if t["state"] in (schema.DONE, schema.PRUNED)]
    assert len(ended) == TRIALS + 1
    mirrored = query(root, "select value from tags where key = 'moco.trial'")
    numbers = {t["number"] for t in ended}
    assert {int(number) for (number,) in mirrored} == numbers

    said = table(root, find_search(root, "moco"))
    done = {t["number"] for t in record["trials"] if t["state"] == schema.DONE}
    over = {t["number"] for t in record["trials"] if t["state"] == schema.DONE and t["constraints"]["hours"] > 0}
    ranked = set(record["ranking"])
    assert f"{len(done)} done" + (f" ({len(over)} of them over a limit)" if over else "") in said
    apart = {int(line.split()[3].rstrip(",")) for line in said.splitlines() if line.startswith("not ranked: trial ")}
    assert apart | ranked == done
    assert not apart & ranked
    for number in over:
        excess_of = record["trials"][number]["constraints"]["hours"]
        assert f"not ranked: trial {number}, hours over by {excess_of:.3g}" in said

    wider = replace(asked, budget=4, space={"optim.lr": Log(0.01, 1.0), "negatives.size": Powers(64, 1024)})
    planned = plan(wider, wider.base, ["train.device=cpu", "evaluation.knn_every=5"])
    replace_json(path, {**planned.record("again", seed=1, storage="journal"), "study": f"{record['label']}~2"})
    study = opened(path)
    with study.locked():
        study.begin()
    assert SearchWorker.on(path, trained).work()
    assert experiments(["sync"]) == 0
    tags = tags_of_the_parent(root)
    assert set(shown(tags, "importance.")) <= {"optim.lr", "negatives.size"}
    assert set(shown(tags, "best.")) == {"optim.lr", "negatives.size"}
    assert experiments(["sync"]) == 0
    assert "up to date" in capsys.readouterr().out


@pytest.mark.database
def test_a_search_is_mirrored_to_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    monkeypatch.setenv("MOCO_RUNS", str(root))
    with postgres() as server:
        address = server.uri("mlflow")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        path = begun(root, search(sampler="random", pruner="median", limits={"hours": 0.6}))
        assert SearchWorker.on(path, trained).work()
        assert experiments(["sync"]) == 0
        carry_on(path, TRIALS + 1)
        assert experiments(["sync"]) == 0
        capsys.readouterr()
        assert experiments(["sync"]) == 0
        assert capsys.readouterr().out.startswith("MLflow: up to date (")
        with server.connection("mlflow") as connection:
            found = connection.execute("select key, value from tags where key like 'importance.%'").fetchall()
    shares = importances(opened(path), known(path))[schema.KNN20]
    assert dict(found) == {f"importance.{field}": f"{share:.3f}" for field, share in shares.items()}
    assert set(shares) <= set(MOCO.space)


def test_parameters_of_one_field_add_up_under_its_name() -> None:
    shares = {"log2 head.dim if head.hidden=()": 0.25, "log2 head.dim if head.hidden=(0)": 0.125}
    shares["1 - key_encoder.momentum"] = 0.5
    assert by_field({**shares, "head.hidden": 0.125}, ["key_encoder.momentum", "head.hidden", "head.dim"]) == {
        "key_encoder.momentum": 0.5,
        "head.dim": 0.375,
        "head.hidden": 0.125,
    }
    asked = {"head.dim": Powers(32, 128), "key_encoder.momentum": Complement(0.9, 0.99)}
    names = [dimension.drawn(field).name for field, dimension in asked.items()]
    assert list(by_field(dict.fromkeys(names, 0.5), asked)) == list(asked)


def test_a_record_of_an_earlier_version_is_mirrored_under_the_fields(tmp_path: Path) -> None:
    path = begun(tmp_path, search())
    record = known(path)
    record["importances"] = {schema.KNN20: {"log2 head.dim if head.hidden=()": 0.75, "1 - key_encoder.momentum": 0.25}}
    assert shown(study_tags(record), "importance.") == {"head.dim": "0.750", "key_encoder.momentum": "0.250"}
