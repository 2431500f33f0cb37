"""What an MLflow store holds, read as SQL from SQLite or PostgreSQL: by another road than the one it was written on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from experiments.store import schema
from tests.support import tracking_runs as runs
from tests.support.postgres_server import Postgres

Rows = list[tuple[Any, ...]]
Ask = Callable[..., Rows]  # SQL with a ? for each value


def query(root: Path, text: str, *values: Any) -> Rows:
    with closing(sqlite3.connect(f"file:{root / schema.MLFLOW_DATABASE}?mode=ro", uri=True)) as connection:
        return connection.execute(text, values).fetchall()


def execute(root: Path, *statements: str) -> None:
    with closing(sqlite3.connect(root / schema.MLFLOW_DATABASE)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def content(root: Path) -> dict[Any, Any]:
    """Everything a user sees of the embedded store, without MLflow's own ids."""
    return content_of(partial(query, root), lambda uri: Path(unquote(uri.removeprefix("file://"))))


def postgres_content(server: Postgres, database: str, artifacts: Path) -> dict[Any, Any]:
    """The same of a database in PostgreSQL; `artifacts`: the folder of the MLflow server on it."""

    def folder(uri: str) -> Path:
        return artifacts / unquote(uri.removeprefix("mlflow-artifacts:/").removeprefix(f"file://{artifacts}/"))

    with server.connection(database) as connection:
        return content_of(lambda text, *v: connection.execute(text.replace("?", "%s"), v).fetchall(), folder)


def content_of(ask: Ask, folder_of: Callable[[str], Path]) -> dict[Any, Any]:
    found: dict[Any, Any] = {"experiments": sorted(ask("select name, lifecycle_stage from experiments"))}
    rows = ask(
        "select r.run_uuid, e.name, r.name, r.status, r.start_time, r.end_time, r.artifact_uri from runs r"
        " join experiments e on e.experiment_id = r.experiment_id where r.lifecycle_stage = 'active'"
    )
    names = {row[0]: row[2] for row in rows}
    for uuid, experiment, name, status, start, end, artifacts in rows:
        tags = dict(ask("select key, value from tags where run_uuid = ?", uuid))
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = names[tags["mlflow.parentRunId"]]
        assert (experiment, name) not in found
        found[experiment, name] = {
            "times": (status, start, end),
            "tags": tags,
            "params": dict(ask("select key, value from params where run_uuid = ?", uuid)),
            "metrics": sorted(ask("select key, step, timestamp, value from metrics where run_uuid = ?", uuid)),
            "latest": sorted(ask("select key, value, step from latest_metrics where run_uuid = ?", uuid)),
            "data": ask(
                "select d.name, d.digest from inputs i join datasets d on d.dataset_uuid = i.source_id"
                " where i.destination_id = ?",
                uuid,
            ),
            "models": _models(ask, folder_of, uuid),
            "files": {f.name: f.read_bytes() for f in sorted(folder_of(artifacts).glob("*"))},
        }
    return found


def _models(ask: Ask, folder_of: Callable[[str], Path], uuid: str) -> Rows:
    """Of each model of a run: what it is, whether the run names it as its output, and its files."""
    columns = "model_id, name, model_type, status, artifact_location"
    found = ask(f"select {columns} from logged_models where source_run_id = ? and lifecycle_stage = 'active'", uuid)
    made = []
    for model, name, kind, status, place in found:
        params = dict(ask("select param_key, param_value from logged_model_params where model_id = ?", model))
        tags = dict(ask("select tag_key, tag_value from logged_model_tags where model_id = ?", model))
        outputs = ask("select count(*) from inputs where source_id = ? and destination_id = ?", uuid, model)
        made.append((name, kind, status, params, tags, outputs, sorted(f.name for f in folder_of(place).glob("*"))))
    return made


def run_named(root: Path, name: str) -> dict[str, Any]:
    (found,) = [value for key, value in content(root).items() if key[1] == name]
    return dict(found)


def loss_rows(seed: int, steps: range, late: float = 0) -> Rows:
    return [("train/loss", s, runs.at_ms(s + late), runs.loss(s, seed)) for s in steps]
