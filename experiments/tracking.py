"""Journals to MLflow: the run directories are the truth; MLflow is a view that may be late, or lost and built again.

    sync          bring MLflow up to date, once or for as long as a sweep runs; a process of its own (`tracking_sync`)
    serve_ui      the MLflow UI on this machine, with links that open on a sweep's runs (`tracking_ui`)
    serve         an MLflow server for a team, on PostgreSQL or a SQLite file (`tracking_serve`, `tracking_database`)
    ensure_store  make the embedded store, once (`tracking_store`)

What MLflow is to hold of a run is in `tracking_mirror` (its curves: `tracking_points`, what the machine does meanwhile:
`tracking_system`, its encoder: `tracking_model`), of a sweep in `tracking_sweep` and `tracking_notes`, of an Optuna study in
`tracking_study`; `tracking_push` writes the difference to what is there. All names: `python -m experiments names`. mlflow is
imported in these modules only, and only when it is needed: importing this one is cheap.

The launcher starts `python -m experiments sync LABEL --follow` in a session of its own, and sends it SIGTERM when the
sweep has ended: it then brings over what is left, and goes. MLFLOW_TRACKING_URI names a server (or database) to use in
place of the embedded store, for all of them.
"""

from experiments.tracking_serve import Team, serve
from experiments.tracking_store import ensure_store
from experiments.tracking_sync import SyncReport, sync
from experiments.tracking_ui import Links, links, serve_ui

__all__ = ["Links", "SyncReport", "Team", "ensure_store", "links", "serve", "serve_ui", "sync"]
