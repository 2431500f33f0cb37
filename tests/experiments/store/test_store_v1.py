"""A store that an earlier version wrote gives the answers that it gave then. Oracle: what that version printed.

The files are in tests/fixtures/store_v1, with a README of how they were made. An answer may change its wording on purpose:
UPDATE_GOLDEN=1 python -m pytest tests/test_store_v1.py, then read the difference; no number and no state may be in it.
The answers with a claim in them were given under rule 1 for a claim; those of rule 2 are in a folder of their own, and the
sealed tables of rule 1 must hold without a change.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tarfile
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from analysis.cli import main as analysis
from analysis.frame import read_journal
from analysis.seal import seals_in
from analysis.verify import verify
from experiments.__main__ import main as experiments
from experiments.plan.configs import config_of
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.manifests import all_manifests
from experiments.store.run import RunDirectory
from experiments.store.search_record import record_named
from moco.config.plain import run_id

HERE = Path(__file__).parents[2] / "fixtures" / "store_v1"
SWEEP = "queue_size@digits,train.epochs=2,evaluation.linear_epochs=2,evaluation.few_label_draws=2"
SEARCH = "toy@digits,train.epochs=2,evaluation.knn_every=1"
RESUMED = "801230eeb6690051"  # K=512 seed 0
JUDGED = ("table", "table_of_added", "table_csv", "table_mlflow", "decide", "power")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, as readers keep an index beside the runs."""
    shutil.copytree(HERE / "store", tmp_path / "store")
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "store"))
    monkeypatch.setenv("MOCO_TRACKING", "off")
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path / "store"


def without_sum(text: str) -> str:
    """Of the inputs and of the code that makes the numbers: it is another one whenever that code is touched."""
    return re.sub(r"Seal [0-9a-f]{12}:", "Seal ............:", text)


def is_as_kept(name: str, printed: str) -> None:
    text = without_sum(printed)
    kept = HERE / ("answers_rule_2" if name in JUDGED else "answers") / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        kept.write_text(text, encoding="utf-8")
    assert text == kept.read_text(encoding="utf-8")


ANSWERS = {
    "table": ["table", "queue_size"],
    "table_of_added": ["table", "queue_size", "--readout", "retrieval_map"],
    "table_csv": ["table", "queue_size", "--format", "csv"],
    "decide": ["decide", "queue_size"],
    "power": ["power", "queue_size", "--json"],
    "search": ["search", "toy", "--table"],
}
STATES = {
    "status": ["status"],
    "status_sweep": ["status", "queue_size"],
    "status_sweep_json": ["status", "queue_size", "--json"],
    "status_search": ["status", "toy"],
    "status_resumed": ["status", RESUMED],
    "retry": ["retry", "queue_size"],
}


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", ANSWERS)
def test_the_analysis_answers_as_it_did(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert analysis(ANSWERS[name]) == 0
    printed = capsys.readouterr().out
    is_as_kept(name, re.sub(r"moco-seal \d \S+ \S+ \S+", "SEAL", printed))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", STATES)
def test_the_states_are_as_they_were(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiments(STATES[name]) == 0
    is_as_kept(name, capsys.readouterr().out)


def test_every_run_is_found_under_the_identity_of_its_config(root: Path) -> None:
    cells = {cell["run_id"]: cell for manifest in all_manifests(root) for cell in manifest["cells"]}
    assert Counter(state_of(root / name).state for name in cells) == {
        "done": 26,
        "pruned": 2,
        "failed": 3,
        "preempted": 1,
        "lost": 1,
    }
    for name, cell in cells.items():
        config = config_of(RunDirectory(root / name))
        assert run_id(config) == name
        assert config.train.seed == cell["seed"]


def test_a_journal_with_a_resume_has_every_step_once(root: Path) -> None:
    """Killed after step 8 with a checkpoint of step 5."""
    run = RunDirectory(root / RESUMED)
    assert '{"resumed_at":5}' in (run.path / "journal.jsonl").read_text().replace(" ", "")
    for records in (run.records(), read_journal(run.path / schema.JOURNAL).records):
        assert [r["step"] for r in records if "train/loss" in r["values"]] == list(range(1, 21))
    assert [(line["event"], line["attempt"]) for line in run.attempts()] == [
        ("start", 1),
        ("end", 1),
        ("start", 2),
        ("end", 2),
    ]


@pytest.mark.parametrize("suffix", ["md", "html"])
def test_a_sealed_table_still_holds(root: Path, suffix: str) -> None:
    """The code that makes the numbers may have changed; the numbers may not."""
    file = HERE / "answers" / f"sealed.{suffix}"
    (seal,) = seals_in(file)
    assert not seal.edited
    assert (seal.inputs["label"], seal.inputs["metric"], len(seal.inputs["runs"])) == (SWEEP, "linear_top1", 25)
    again = root / file.name
    assert analysis(["table", "queue_size", "--out", str(again)]) == 0
    assert verify(again, root) == []
    assert verify(file, root) == []


def test_a_seal_sees_a_number_of_the_old_store_that_was_changed(root: Path) -> None:
    results = root / "0bbffacc2def0e2e" / "results.json"
    assert '"linear_top1": 89.44444444444444' in results.read_text()
    results.write_text(results.read_text().replace('"linear_top1": 89.44444444444444', '"linear_top1": 89.5'))
    assert any("89.5" in line for line in verify(HERE / "answers/sealed.md", root))


def test_the_study_of_a_search_holds_what_its_record_says(root: Path) -> None:
    """Optuna itself reads the journal."""
    record = record_named(root, "toy")
    assert record["label"] == SEARCH
    backend = JournalFileBackend(str(root / "searches" / f"{SEARCH}.journal"))
    study = optuna.load_study(study_name=record["study"], storage=JournalStorage(backend))
    done = {trial.number: trial.values for trial in study.trials if trial.state.name == "COMPLETE"}
    assert done == {t["number"]: t["values"] for t in record["trials"] if t["state"] == "done"}
    assert len(study.trials) == len(record["trials"]) == 8
    assert study.best_trial.number == record["ranking"][0] == 0


def unpacked(root: Path) -> Path:
    """The MLflow store, at home in this folder."""
    with tarfile.open(HERE / "mlflow.tar.gz") as archive:
        archive.extractall(root, filter="data")
    database = root / "mlflow.db"
    with sqlite3.connect(database) as store:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location"), ("tags", "value")):
            store.execute(f"UPDATE {table} SET {column} = replace({column}, '/RUNS', ?)", (str(root),))
    store.close()
    return database


# mlflow's own use of an older SQLAlchemy
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_the_mlflow_store_of_that_version_gives_its_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analysis(["table", "queue_size", "--mlflow", str(unpacked(root))]) == 0
    is_as_kept("table_mlflow", capsys.readouterr().out)
