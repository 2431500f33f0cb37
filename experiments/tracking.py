"""Journals to MLflow: the run directories are the truth; MLflow is a view that may be late, or lost and built again.

    sync          bring MLflow up to date, once or for as long as a sweep runs; a process of its own (`tracking_sync`)
    serve_ui      the MLflow UI on this machine, with links that open on a sweep's runs (`tracking_ui`)
    ensure_store  make the embedded store, once (`tracking_store`)

What MLflow is to hold of a run is in `tracking_mirror`, how it gets there in `tracking_sweep`. mlflow is imported in
these modules only, and only when it is needed: importing this one is cheap.

The launcher starts `python -m experiments sync LABEL --follow` in a session of its own, and sends it SIGTERM when the
sweep has ended: it then brings over what is left, and goes.
"""

from experiments.tracking_store import ensure_store
from experiments.tracking_sync import SyncReport, sync
from experiments.tracking_ui import Links, links, serve_ui

__all__ = ["Links", "SyncReport", "ensure_store", "links", "serve_ui", "sync"]
