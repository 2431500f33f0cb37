"""What an embedded MLflow store holds, read as SQLite: by another road than the one it was written on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from experiments import schema
from tests import tracking_runs as runs


def query(root: Path, text: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{root / schema.MLFLOW_DATABASE}?mode=ro", uri=True)) as connection:
        return connection.execute(text, values).fetchall()


def execute(root: Path, *statements: str) -> None:
    with closing(sqlite3.connect(root / schema.MLFLOW_DATABASE)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def content(root: Path) -> dict[Any, Any]:
    """Everything a user sees of the store, without MLflow's own ids."""
    found: dict[Any, Any] = {"experiments": query(root, "select name, lifecycle_stage from experiments order by 1")}
    rows = query(
        root,
        "select r.run_uuid, e.name, r.name, r.status, r.start_time, r.end_time, r.artifact_uri from runs r"
        " join experiments e using (experiment_id) where r.lifecycle_stage = 'active'",
    )
    names = {row[0]: row[2] for row in rows}
    for uuid, experiment, name, status, start, end, artifacts in rows:
        folder = Path(unquote(artifacts.removeprefix("file://")))
        tags = dict(query(root, "select key, value from tags where run_uuid = ?", uuid))
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = names[tags["mlflow.parentRunId"]]
        assert (experiment, name) not in found
        found[experiment, name] = {
            "times": (status, start, end),
            "tags": tags,
            "params": dict(query(root, "select key, value from params where run_uuid = ?", uuid)),
            "metrics": metrics(root, uuid),
            "latest": query(root, "select key, value, step from latest_metrics where run_uuid = ? order by 1", uuid),
            "data": query(
                root,
                "select d.name, d.digest from inputs i join datasets d on d.dataset_uuid = i.source_id"
                " where i.destination_id = ?",
                uuid,
            ),
            "files": {f.name: f.read_bytes() for f in sorted(folder.glob("*"))},
        }
    return found


def metrics(root: Path, uuid: str) -> list[tuple[Any, ...]]:
    return query(root, "select key, step, timestamp, value from metrics where run_uuid = ? order by 1, 2, 3", uuid)


def run_named(root: Path, name: str) -> dict[str, Any]:
    (found,) = [value for key, value in content(root).items() if key[1] == name]
    return dict(found)


def loss_rows(seed: int, steps: range, late: float = 0) -> list[tuple[Any, ...]]:
    return [("train/loss", s, runs.at_ms(s + late), runs.loss(s, seed)) for s in steps]
