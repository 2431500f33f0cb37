"""Journals to MLflow: the run directories are the truth; MLflow is a view that may be late, or lost and built again.

    sync          bring MLflow up to date, once or for as long as a sweep runs; a process of its own
    ui            the MLflow UI on this machine, with links that open on a sweep's runs
    serve         an MLflow server for a team, on PostgreSQL or a SQLite file (`database`)
    store         make the embedded store, once

What MLflow is to hold of a run is in `mirror` (its curves: `points`, what the machine does meanwhile: `system`, its
encoder: `model`), of a sweep in `sweep` and `notes`, of an Optuna study in `study`; `push` writes the difference to what
is there. All names: `python -m experiments names`. mlflow is imported in this room only, and only when it is needed.

The launcher starts `python -m experiments sync LABEL --follow` in a session of its own, and sends it SIGTERM when the
sweep has ended: it then brings over what is left, and goes. MLFLOW_TRACKING_URI names a server (or database) to use in
place of the embedded store, for all of them.
"""
