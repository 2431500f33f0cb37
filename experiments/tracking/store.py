"""Where MLflow keeps its records: an embedded SQLite file beside the runs, or the server that the user names.

    ensure_store     makes the embedded store if needed, and returns the address
    open_store       a client
    experiment_id    the experiment of a sweep, made if needed

mlflow takes seconds to import, so it is imported where it is used: a launcher that only needs the address of a store
that exists does without.
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
    """Whether it is an MLflow server, which keeps artifacts too; otherwise it is a database that we write to."""
    return uri is not None and uri.startswith(("http://", "https://"))


def store_id(runs_root: Path) -> str:
    """The id of this folder of runs, made once. On a team's server it keeps two people's runs of one sweep apart."""
    file = runs_root / STORE_ID
    if not file.exists():
        with exclusive(runs_root / f".{STORE_ID}.lock"):
            if not file.exists():
                replace_text(file, f"{uuid4().hex[:12]}\n", sync=True)
    return file.read_text().strip()


def ensure_store(runs_root: Path, address: str | None = None) -> str:
    """The address of the store: `address` or the user's own, if given; otherwise the embedded store, made if needed.

    Two processes that open a fresh database at the same time destroy it: both migrate, and neither a retry nor `mlflow
    db upgrade` repairs it. So one process makes it, under a lock and another name, and then renames it: a kill leaves
    no half-made store.
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
    """Make MLflow's tables in the user's own database if they are not there."""
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
    """A client of the store (`ensure_store`). Raises mlflow's own error when it cannot be reached."""
    quiet()
    from mlflow import MlflowClient

    return MlflowClient(ensure_store(runs_root, address))


def experiment_id(client: MlflowClient, runs_root: Path, label: str, tags: dict[str, str]) -> str:
    """The experiment of a sweep, made if needed. One that was deleted in the UI is restored, since its runs exist."""
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
