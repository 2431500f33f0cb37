"""`run_id_of`: the run that an MLflow id belongs to, where MLflow is the user's own server or database."""

from __future__ import annotations

from pathlib import Path

from experiments.tracking.store import open_store, user_uri


def run_id_of(runs_root: Path, mlflow_id: str, address: str | None = None) -> str | None:
    """Name of the run directory; None where there is no such server, run or tag, or no answer."""
    if address is None and user_uri() is None:
        return None
    try:
        tags: dict[str, str] = open_store(runs_root, address).get_run(mlflow_id).data.tags
    except Exception:  # mlflow's, its database's and its transport's; the caller has other places to search
        return None
    return tags.get("moco.run_id")
