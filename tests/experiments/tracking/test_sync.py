"""Journals reach MLflow exactly once, whatever is killed or lost in between. The store is read as SQLite, not by mlflow."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import LoggedModelStatus

from experiments.plan import arms
from experiments.store import schema
from experiments.store.mlflow import QUIET
from experiments.tracking.store import open_store
from experiments.tracking.sync import sync
from moco.config import Config
from moco.config.plain import flatten, from_plain
from tests.support import tracking_runs as runs
from tests.support.tracking_content import content, execute, loss_rows, query, run_named

# mlflow's own use of an older SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.fresh_store(tmp_path_factory.getbasetemp())


@pytest.fixture
def root(tmp_path: Path, fresh_store: Path) -> Path:
    shutil.copy(fresh_store, tmp_path / schema.MLFLOW_DATABASE)
    return tmp_path


def test_a_finished_sweep_is_shown_with_the_values_times_and_steps_of_its_journals(root: Path) -> None:
    manifest = runs.planned(root)
    for cell in manifest["cells"]:
        runs.finish(root, cell)
    report = sync(root)
    assert (report.warnings, report.runs, report.points) == ((), 7, 6 * (2 * 20 + len(schema.READOUTS)))

    parent = run_named(root, "sweep queue_size")
    assert parent["times"] == ("FINISHED", runs.at_ms(0), runs.at_ms(200))
    assert runs.COMMAND in parent["tags"]["mlflow.note.content"]
    assert list(parent["files"]) == ["sweep.json"]
    assert "| K=1024 | 2/2 | 97.50 ± 0.00 | +0.00 (n=2) |" in parent["tags"]["mlflow.note.content"]
    assert query(root, "select value from experiment_tags where key = 'mlflow.experimentKind'") == [
        ("custom_model_development",)
    ]

    cell = next(c for c in manifest["cells"] if (c["arm"], c["seed"]) == ("K=1024", 1))
    shown = run_named(root, "K=1024 seed=1")
    assert shown["times"] == ("FINISHED", runs.at_ms(0), runs.at_ms(200))
    assert [row for row in shown["metrics"] if row[0] == "train/loss"] == loss_rows(1, range(10, 201, 10))
    assert [row for row in shown["metrics"] if row[0].startswith("test/")] == [
        (f"test/{name}", 200, runs.at_ms(201), 97.5 - i)
        for i, name in sorted(enumerate(schema.READOUTS), key=lambda x: x[1])
    ]
    config = flatten(from_plain(Config, cell["config"]), cosmetic=False)
    assert set(config) - set(shown["params"]) == {"train.seed", *(k for k, v in config.items() if v in (None, ""))}
    assert shown["params"]["negatives.size"] == "1024"
    tags = shown["tags"]
    assert tags["mlflow.parentRunId"] == "sweep queue_size"
    assert {k: v for k, v in tags.items() if k.startswith("moco.") and k in schema.TAGS} == {
        "moco.run_id": cell["run_id"],
        "moco.sweep": "queue_size",
        "moco.arm": "K=1024",
        "moco.seed": "1",
        "moco.state": "done",
        "moco.commit": "0123456789abcdef",
        "moco.uncommitted": "d1ff",
        "moco.hardware": "a GPU",
        "moco.job": "7_1",
        "moco.seconds": "100.0",  # of results.json, which here says no more
        "moco.run_dir": str(root / cell["run_id"]),
        "moco.store": (root / schema.STORE_ID).read_text().strip(),
        **{key: tags[key] for key in ("moco.sent", "moco.files", "moco.model")},
    }
    note = tags["mlflow.note.content"]
    assert [part in note for part in (manifest["question"], "seed 1", "**97.50 %**", "| K=256 (baseline) | 2/2 |")] == [
        True
    ] * 4
    steps = ["git checkout 0123456789abcdef", "git apply uncommitted.diff  # an artifact of this run"]
    assert "\n".join([*steps, f"{runs.COMMAND} --only K=1024"]) in note
    assert [name for name, _ in shown["data"]] == ["digits"]
    assert set(shown["files"]) == set(schema.RUN_ARTIFACTS)
    ((name, kind, status, params, model_tags, outputs, files),) = shown["models"]
    ready = LoggedModelStatus.READY.value
    assert (name, kind, LoggedModelStatus.from_int(status).value, outputs, files) == (
        "encoder",
        "moco encoder",
        ready,
        [(1,)],
        ["MLmodel"],
    )
    assert params["path"] == str(root / cell["run_id"] / schema.ENCODER)
    assert model_tags["moco.arm"] == "K=1024"


def test_the_second_sync_changes_nothing(root: Path) -> None:
    for cell in runs.planned(root)["cells"]:
        runs.finish(root, cell)
    sync(root)
    before, rows = content(root), query(root, "select count(*) from runs")
    report = sync(root)
    assert (report.runs, report.points) == (0, 0)
    assert content(root) == before
    assert query(root, "select count(*) from runs") == rows


def test_bit_by_bit_resumed_and_rebuilt_from_scratch_are_equal(root: Path, fresh_store: Path) -> None:
    """One arm is synced while it runs, is killed, resumes and ends; another fails and is tried again."""
    manifest = runs.planned(root, seeds=1)
    resumed, retried, _ = manifest["cells"]
    run = runs.start(root, resumed)
    runs.log(run, 0, range(10, 101, 10))
    runs.checkpoint(run, 70)
    with run.locked():
        runs.say(run, schema.RUNNING, step=100)
        sync(root)
        assert run_named(root, "K=256 seed=0")["times"][0] == "RUNNING"
    failing = runs.start(root, retried)
    runs.log(failing, 0, range(10, 61, 10))
    runs.checkpoint(failing, 30)
    runs.end(failing, schema.FAILED, 60, reason="the disk is full")
    sync(root)
    failed = run_named(root, "K=1024 seed=0")
    assert failed["times"][0] == "FAILED"
    assert failed["tags"]["moco.reason"] == "the disk is full"
    assert [row for row in failed["metrics"] if row[0] == "train/loss"] == loss_rows(0, range(10, 61, 10))

    for again, cell, saved in ((run, resumed, 70), (failing, retried, 30)):
        runs.start(root, cell, at=500, attempt=2)
        with again.journal() as journal:
            journal.append({"resumed_at": saved})
        with again.locked():
            runs.say(again, schema.RUNNING, step=saved)
            sync(root)
        runs.log(again, 0, range(saved + 10, 201, 10), late=500)
        (again.path / schema.RESULTS).write_text('{"test": {}, "steps": 200}')
        runs.end(again, schema.DONE, 700)
        sync(root)
    expected = content(root)
    for arm, saved in (("K=256", 70), ("K=1024", 30)):
        shown = expected["queue_size@digits", f"{arm} seed=0"]
        before = loss_rows(0, range(10, saved + 1, 10))
        after = loss_rows(0, range(saved + 10, 201, 10), late=500)
        assert [row for row in shown["metrics"] if row[0] == "train/loss"] == before + after
        assert "moco.reason" not in shown["tags"]

    shutil.rmtree(root / schema.MLFLOW_ARTIFACTS)
    shutil.copy(fresh_store, root / schema.MLFLOW_DATABASE)
    sync(root)
    assert content(root) == expected


@pytest.mark.parametrize(
    "undone",
    [
        ["delete from tags where key = 'moco.sent'"],  # killed after a batch, before its count
        ["delete from tags where key = 'moco.sent'", "delete from metrics", "delete from latest_metrics"],
        ["delete from params", "delete from inputs where source_type = 'DATASET'"],
        ["delete from tags where key = 'moco.files'", "update runs set status = 'RUNNING', end_time = null"],
        ["delete from tags where key = 'moco.model'"],
        ["delete from tags where key = 'moco.model'", "delete from inputs where source_type != 'DATASET'"],
        ["delete from tags where key = 'moco.model'", "update logged_models set status = 1"],
        ["delete from runs where name != 'sweep queue_size'"],
    ],
)
def test_a_sync_that_was_killed_is_finished_by_the_next(root: Path, undone: list[str]) -> None:
    for cell in runs.planned(root, seeds=1)["cells"]:
        runs.finish(root, cell)
    sync(root)
    before = content(root)
    execute(root, *undone)
    assert content(root) != before
    sync(root)
    assert content(root) == before


def test_a_long_history_comes_over_in_batches_and_thinned(root: Path) -> None:
    manifest = runs.planned(root, seeds=1)
    run = runs.start(root, manifest["cells"][0])
    runs.log(run, 0, range(1, 5001))
    runs.end(run, schema.FAILED, 5000, total_steps=5000)
    sync(root)
    rows = [row for row in run_named(root, "K=256 seed=0")["metrics"] if row[0] == "train/loss"]
    assert len(rows) in (2000, 2001)
    assert set(rows) <= set(loss_rows(0, range(1, 5001)))


def test_a_cell_of_two_sweeps_is_in_both_experiments(root: Path) -> None:
    first, second = runs.planned(root, seeds=1), runs.planned(root, sizes=[512], seeds=1, name="other")
    for run_id in {c["run_id"]: c for c in [*first["cells"], *second["cells"]]}.values():
        runs.finish(root, run_id)
    sync(root)
    shown = content(root)
    one, two = shown["queue_size@digits", "random init seed=0"], shown["other@digits", "random init seed=0"]
    assert one["tags"]["moco.run_id"] == two["tags"]["moco.run_id"]
    assert one["metrics"] == two["metrics"] != []
    sync(root, "other")
    assert content(root) == shown


def test_a_damaged_line_is_named_and_the_rest_is_shown_a_damaged_run_hides_only_itself(root: Path) -> None:
    manifest = runs.planned(root, seeds=1)
    for cell in manifest["cells"]:
        runs.finish(root, cell)
    first, second, third = (root / cell["run_id"] for cell in manifest["cells"])
    (third / schema.ATTEMPTS).write_text("{not JSON\n")
    lines = (first / schema.JOURNAL).read_text().splitlines()
    lines[3] = '{"step": 40, "values"'
    (first / schema.JOURNAL).write_text("\n".join(lines) + "\n")
    (second / schema.ATTEMPTS).write_text("{not JSON\n" + (second / schema.ATTEMPTS).read_text())
    assert sync(root).warnings == (
        f"{first / schema.JOURNAL}, line 4: damaged, left out",
        f"{second / schema.ATTEMPTS}, line 1: damaged, left out",
        f"{third.name} (random init seed=0) is not in MLflow: {third / schema.ATTEMPTS}, line 1: damaged, left out",
    )
    shown = query(root, "select name from runs order by 1")
    assert shown == [("K=1024 seed=0",), ("K=256 seed=0",), ("sweep queue_size",)]
    steps = [row[1] for row in run_named(root, "K=256 seed=0")["metrics"] if row[0] == "train/loss"]
    assert steps == [step for step in range(10, 201, 10) if step != 40]


def test_a_server_that_is_down_is_a_warning_and_the_next_sync_catches_up(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cell in runs.planned(root, seeds=1)["cells"]:
        runs.finish(root, cell)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:password@{address}")
        report = sync(root)
    assert report.points == 0
    (warning,) = report.warnings
    assert warning.startswith(f"MLflow at http://{address} is not up to date")
    assert "password" not in str(report)
    assert "\n" not in warning
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync(root).points == 3 * (2 * 20 + len(schema.READOUTS))


def test_a_run_that_a_user_added_is_left_alone(root: Path) -> None:
    for cell in runs.planned(root, seeds=1)["cells"]:
        runs.finish(root, cell)
    sync(root)
    client = open_store(root)
    ((experiment,),) = query(root, "select experiment_id from experiments where name = 'queue_size@digits'")
    own = client.create_run(str(experiment), run_name="mine").info.run_id
    client.log_metric(own, "train/loss", 1.0)
    before = content(root)
    assert sync(root).runs == 0
    assert content(root) == before


def test_an_unknown_sweep_is_named_with_the_nearest(root: Path) -> None:
    runs.planned(root)
    with pytest.raises(ValueError, match=r"no sweep queue_sizes .*did you mean queue_size"):
        sync(root, "queue_sizes")


def test_processes_that_all_want_a_fresh_store_make_one(root: Path, fresh_store: Path) -> None:
    """Without the lock this destroys the database: two migrations at a time."""
    assert sorted(p.name for p in fresh_store.parent.iterdir()) == ["mlflow.db", "mlflow.db.lock"]
    assert query(root, "pragma integrity_check") == [("ok",)]
    runs.finish(root, runs.planned(root, seeds=1)["cells"][0])
    assert sync(root).warnings == ()


def test_following_shows_a_run_as_it_goes_and_finishes_on_sigterm(root: Path) -> None:
    manifest = runs.planned(root, seeds=1)
    run = runs.start(root, manifest["cells"][0])
    runs.log(run, 0, range(10, 101, 10))
    runs.checkpoint(run, 50)
    command = runs.call("print(sync(root, follow=True))", root)
    with run.locked():
        runs.say(run, schema.RUNNING, step=100)
        follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: len(query(root, "select 1 from metrics where key = 'train/loss'")) == 5)
            runs.log(run, 0, range(110, 201, 10))
            (run.path / schema.RESULTS).write_text('{"test": {}, "steps": 200}')
            runs.end(run, schema.DONE, 200)
        except BaseException:
            follower.kill()
            raise
    os.kill(follower.pid, signal.SIGTERM)
    told, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0
    assert "40 values written" in told
    shown = run_named(root, "K=256 seed=0")
    assert shown["times"][0] == "FINISHED"
    assert [row for row in shown["metrics"] if row[0] == "train/loss"] == loss_rows(0, range(10, 201, 10))


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def test_a_renamed_arm_stands_in_mlflow_once_under_its_new_name(root: Path) -> None:
    manifest = runs.planned(root)
    for cell in manifest["cells"]:
        runs.finish(root, cell)
    sync(root)
    arms.rename(root, "queue_size@digits", "K=1024", "large")
    sync(root)
    named = query(
        root,
        "select p.value, t.value from params p join tags t using (run_uuid) join runs r using (run_uuid) "
        "where p.key = 'arm' and t.key = 'moco.run_id' and r.lifecycle_stage = 'active'",
    )
    names = {"K=1024": "large"}
    assert sorted(named) == sorted((names.get(c["arm"], c["arm"]), c["run_id"]) for c in manifest["cells"])
    assert sync(root).runs == 0
