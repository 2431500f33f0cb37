"""From run directories to MLflow. The run directories are the truth; MLflow is a view that can be rebuilt from them.

    mirror        a run as MLflow should show it: params, tags, curves, files
    model         its final encoder, as MLflow's logged model
    notes         the Markdown notes of a sweep and its runs; the list of all names (NAMES.md)
    sweep         a sweep, or a search, as an experiment: a parent run and a run for each cell
    study         what a search adds to that
    push          writes the difference between a mirror and what MLflow has
    sync          brings MLflow up to date, once or for as long as a sweep runs
    job           the same from within a job of a cluster
    store         where MLflow's records are: an embedded SQLite file, or the server that the user names
    database      a database's address, and MLflow's tables in it
    ui, serve     the UI on this machine; a server for a team
    lookup        the run that an MLflow id belongs to

mlflow is imported in this room only, and only when it is needed.

The launcher starts `python -m experiments sync LABEL --follow` in a session of its own, and sends it SIGTERM when the
sweep has ended; it then writes what is left, and ends. MLFLOW_TRACKING_URI names a server or database to use instead of
the embedded store, for all of these.
"""
