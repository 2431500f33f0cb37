"""Who brings the journals of jobs to MLflow, by the profile's tracking mode. Oracle: the store's own tables, by SQL."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.slurm_cluster import STAND_IN, VERBS, run, until_the_queue_is_empty, wide_cluster
from tests.support.stand_in_runs import ROOT, wait_until

__all__ = ["wide_cluster"]

pytestmark = pytest.mark.usefixtures("wide_cluster")

STEPS, RUNS = 10, 2


def environment(folder: Path, mode: str, store: Path) -> dict[str, str]:
    (folder / "moco/profiles").mkdir(parents=True)
    text = f'cpus = 1\nmemory = "1G"\ntracking_mode = "{mode}"\ntracking = "sqlite:///{store}"\n'
    (folder / "moco/profiles/mine.toml").write_text(text)
    return {"XDG_CONFIG_HOME": str(folder), "MOCO_TRACKING": "on", "MLFLOW_TRACKING_URI": ""}


def points(store: Path) -> list[tuple[str, int, int]]:
    """(MLflow run, number of values of the loss, of different steps among them)"""
    query = "select run_uuid, count(*), count(distinct step) from metrics where key = 'train/loss' group by run_uuid"
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        return [(run_id, total, different) for run_id, total, different in connection.execute(query)]


def submitted(tmp_path: Path, mode: str) -> tuple[Path, Path, dict[str, str]]:
    root, store = tmp_path / "runs", tmp_path / "mlflow.db"
    mine = environment(tmp_path, mode, store)
    run(
        STAND_IN,
        root,
        "--cluster",
        "mine",
        "--only",
        "K=128",
        "--set",
        "train.epochs=1",
        env=mine,
        STAND_IN_STEP="0.02",
    )
    until_the_queue_is_empty()
    return root, store, {**mine, "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}


def test_direct_jobs_mirror_themselves_each_value_once(tmp_path: Path) -> None:
    root, store, mine = submitted(tmp_path, "direct")
    assert [counted for _, *counted in points(store)] == [[STEPS, STEPS]] * RUNS
    run(VERBS, root, "sync", "stand_in", env=mine)
    assert [counted for _, *counted in points(store)] == [[STEPS, STEPS]] * RUNS


def _has_all(store: Path) -> bool:
    try:
        return [counted for _, *counted in points(store)] == [[STEPS, STEPS]] * RUNS
    except sqlite3.OperationalError:  # its tables are being made
        return False


def test_spooled_journals_wait_for_a_sync(tmp_path: Path) -> None:
    root, store, mine = submitted(tmp_path, "spool")
    assert not store.exists()
    watch = subprocess.Popen(
        [*VERBS, "sync", "stand_in", "--watch"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MOCO_RUNS": str(root), **mine},
    )
    try:
        wait_until(lambda: store.exists() and _has_all(store), 300.0)
    finally:
        watch.terminate()
    assert watch.wait(300) == 0
    assert [counted for _, *counted in points(store)] == [[STEPS, STEPS]] * RUNS


def test_off_is_off(tmp_path: Path) -> None:
    root, store, mine = submitted(tmp_path, "off")
    run(STAND_IN, root, "--cluster", "mine", "--only", "K=128", "K=256", "--set", "train.epochs=1", "--wait", env=mine)
    assert not store.exists()
    assert not (root / "mlflow.db").exists()
