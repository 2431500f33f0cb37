"""Where MLflow keeps its records: an embedded SQLite file next to the runs, or the server that the user names.

mlflow takes seconds to import, so it is imported where it is used: a launcher that only needs the store's address, or
finds it already made, never pays for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

from experiments.store.files import exclusive, replace_text
from experiments.store.mlflow import quiet
from experiments.store.schema import MLFLOW_ARTIFACTS, MLFLOW_DATABASE, STORE_ID

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"


def embedded_uri(runs_root: Path) -> str:
    return f"sqlite:///{(runs_root / MLFLOW_DATABASE).resolve()}"


def user_uri() -> str | None:
    """The server the user named in MLFLOW_TRACKING_URI, if any."""
    return os.environ.get(URI_VARIABLE) or None


def is_server(uri: str | None) -> bool:
    """Whether it is an MLflow server, which keeps the artifacts too; else it is a database of our own to write to."""
    return uri is not None and uri.startswith(("http://", "https://"))


def store_id(runs_root: Path) -> str:
    """The name of this folder of runs, given once: on a team's server it keeps apart two people's runs of one sweep."""
    file = runs_root / STORE_ID
    if not file.exists():
        with exclusive(runs_root / f".{STORE_ID}.lock"):
            if not file.exists():
                replace_text(file, f"{uuid4().hex[:12]}\n", sync=True)
    return file.read_text().strip()


def ensure_store(runs_root: Path, address: str | None = None) -> str:
    """Make the embedded store unless it exists, and return its address; or that of a server: `address`, or the user's own.

    `uri`: of the server or database, where the environment does not name one.

    Two processes that first-touch a fresh database destroy it: both migrate, and neither a retry nor `mlflow db
    upgrade` repairs it. So it is made by one, under a lock, beside its final name, and moved there whole: a kill leaves
    no half.
    """
    uri = address or user_uri()
    if uri is not None:
        if not is_server(uri):
            _ready(runs_root, uri)
        return uri
    database = runs_root / MLFLOW_DATABASE
    if not database.exists():
        runs_root.mkdir(parents=True, exist_ok=True)
        with exclusive(runs_root / f"{MLFLOW_DATABASE}.lock"):
            if not database.exists():
                _create_database(database)
    return embedded_uri(runs_root)


def _ready(runs_root: Path, uri: str) -> None:
    """A database of the user's own has its tables, made once."""
    quiet()
    from experiments.tracking.database import prepare

    runs_root.mkdir(parents=True, exist_ok=True)
    prepare(uri, migrate=False)


def _create_database(database: Path) -> None:
    quiet()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = database.with_name(f"{database.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    make: Callable[[str, str], Any] = SqlAlchemyStore
    store = make(f"sqlite:///{unfinished.resolve()}", str((database.parent / MLFLOW_ARTIFACTS).resolve()))
    store.engine.dispose()
    unfinished.replace(database)


def open_store(runs_root: Path, address: str | None = None) -> MlflowClient:
    """A client of what `ensure_store` finds. Raises mlflow's own error when that cannot be reached."""
    quiet()
    from mlflow import MlflowClient

    return MlflowClient(ensure_store(runs_root, address))


def experiment_id(client: MlflowClient, runs_root: Path, label: str, tags: dict[str, str]) -> str:
    """The experiment of a sweep, made if needed; one deleted in the UI comes back, since its runs still exist."""
    found = client.get_experiment_by_name(label)
    if found is None:
        own = (runs_root / MLFLOW_ARTIFACTS / quote(label, safe="=,@")).resolve().as_uri()
        place = None if is_server(user_uri()) else own  # a server keeps them itself
        return str(client.create_experiment(label, artifact_location=place, tags=tags))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    for key, value in tags.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)
    return str(found.experiment_id)
