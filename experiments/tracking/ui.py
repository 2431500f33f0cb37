"""`python -m experiments ui`: the MLflow UI on this machine, and the addresses of each sweep's pages in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.store import schema
from experiments.store.mlflow import charts_page, compare_page, quiet, runs_page, without_login
from experiments.tracking.database import Store
from experiments.tracking.serve import free_port, running, until_interrupted
from experiments.tracking.store import ensure_store, is_server, open_store, user_uri
from experiments.tracking.sweep import metric_key, run_ids_by_arm
from experiments.tracking.sync import manifests, sync


@dataclass(frozen=True)
class Links:
    """Addresses of a sweep in the UI: its runs as a table and with charts, its arms compared, each arm's runs."""

    table: str
    charts: str
    compare: str
    arms: dict[str, str]


def links(
    base_url: str, experiment_id: str, runs: Mapping[str, Sequence[str]], metric: str = f"test/{schema.LINEAR}"
) -> Links:
    """runs: the MLflow run ids of each arm, in order; metric: the key that runs are sorted by, best first.

    The untrained arm is left out of the compare page, which shows the params that differ.
    """
    base = base_url.rstrip("/")
    trained = [ids for arm, ids in runs.items() if arm != schema.RANDOM_INIT]
    return Links(
        table=runs_page(base, experiment_id),
        charts=charts_page(base, experiment_id, metric),
        compare=compare_page(base, experiment_id, trained),
        arms={arm: charts_page(base, experiment_id, metric, arm) for arm in runs},
    )


def serve_ui(runs_root: Path, sweep: str | None = None, port: int = 5000) -> None:
    """Bring MLflow up to date, print the addresses of the sweeps, and serve the UI until Ctrl-C or SIGTERM.

    With a server of the user's own (MLFLOW_TRACKING_URI) only the addresses are printed.
    Raises ValueError for an unknown sweep, an empty store, or a server that does not start.
    """
    if not manifests(runs_root, sweep):
        raise ValueError(f"no sweep in {runs_root} yet; run one first: python sweeps/queue_size.py")
    own = user_uri()
    if own is not None and is_server(own):
        print(sync(runs_root, sweep))
        _print_links(runs_root, sweep, without_login(own))
        return
    chosen = free_port(port)
    if chosen != port:
        print(f"port {port} is taken, using {chosen}", flush=True)
    quiet()
    store = Store.parse(ensure_store(runs_root))
    artifacts = str((runs_root / schema.MLFLOW_ARTIFACTS).resolve())
    with until_interrupted():
        print("starting the MLflow UI ...", flush=True)
        with running(runs_root, store, port=chosen, artifacts=artifacts) as server:
            print(sync(runs_root, sweep), flush=True)  # meanwhile
            server.wait_until_up()
            _print_links(runs_root, sweep, server.address)
            print("Ctrl-C stops it", flush=True)
            server.wait()


def _print_links(runs_root: Path, sweep: str | None, address: str) -> None:
    client = open_store(runs_root)
    for manifest in manifests(runs_root, sweep):
        experiment = client.get_experiment_by_name(manifest["label"])
        if experiment is None:
            print(f"{manifest['label']}: no run has started yet")
            continue
        runs = run_ids_by_arm(client, runs_root, experiment.experiment_id, manifest)
        places = links(address, experiment.experiment_id, runs, metric_key(manifest))
        print(f"{manifest['label']}\n  runs with params  {places.table}")
        print(f"  runs with charts  {places.charts}\n  compare           {places.compare}")
