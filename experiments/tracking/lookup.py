"""Which run an MLflow run shows, where MLflow is the user's own server or database."""

from __future__ import annotations

from pathlib import Path

from experiments.tracking.store import open_store, user_uri


def run_id_of(runs_root: Path, mlflow_id: str, uri: str | None = None) -> str | None:
    """Name of the run directory; None where there is no such server, run or tag, or no answer.

    `uri`: of the server, where the environment does not name one.
    """
    if (user_uri() or uri) is None:
        return None
    try:
        tags: dict[str, str] = open_store(runs_root, uri).get_run(mlflow_id).data.tags
    except Exception:  # mlflow's, its database's and its transport's: it is one of several places to look at
        return None
    return tags.get("moco.run_id")
