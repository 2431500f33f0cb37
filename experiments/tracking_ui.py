"""The MLflow UI on this machine, and links into it that open on training runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

from experiments import schema
from experiments.tracking_store import ensure_store, open_store, quiet, shown, user_uri
from experiments.tracking_sweep import run_ids_by_arm
from experiments.tracking_sync import manifests, sync

# Without it the UI opens on its pages for language models, where nobody finds a training run.
TRAINING = "workflowType=machine_learning"
COMPARED = 60  # runs on the compare page; it slows down with many
START_SECONDS, STOP_SECONDS = 120.0, 10.0
SERVER_LOG = "mlflow-server.log"


@dataclass(frozen=True)
class Links:
    """Addresses of a sweep in the UI: all runs with charts, the compare page of its arms, and each arm's runs."""

    charts: str
    compare: str
    arms: dict[str, str]


def links(base_url: str, experiment_id: str, runs: Mapping[str, Sequence[str]], metric: str = schema.LINEAR) -> Links:
    """`runs`: MLflow run ids of each arm, in order; `metric`: the readout that they are sorted by, best first.

    Sorted by date, as they would be, runs hide folded up under their sweep and the charts are empty. The compare page
    shows the params that differ, so the untrained arm is left out; of a large sweep it has each arm's first runs.
    """
    base = base_url.rstrip("/")
    order = f"orderByKey={quote(f'metrics.`test/{metric}`', safe='')}&orderByAsc=false"
    page = f"{base}/#/experiments/{experiment_id}/runs?{TRAINING}&compareRunsMode=CHART&{order}"
    trained = [ids for arm, ids in runs.items() if arm != schema.RANDOM_INIT]
    each = max(1, COMPARED // max(1, len(trained)))
    compared = [run for ids in trained for run in ids[:each]][:COMPARED]
    compare = f"{base}/#/compare-runs?runs={_json(compared)}&experiments={_json([experiment_id])}&{TRAINING}"
    return Links(page, compare, {arm: f"{page}&searchFilter={quote(_filter(arm), safe='')}" for arm in runs})


def _json(ids: Sequence[str]) -> str:
    return quote(json.dumps(ids, separators=(",", ":")), safe="")


def _filter(arm: str) -> str:
    mark = "'" if '"' in arm else '"'
    return f"params.arm = {mark}{arm}{mark}"


def free_port(port: int) -> int:
    """`port`, or the next one that nobody listens on."""
    for candidate in range(port, min(port + 100, 65_536)):
        with socket.socket() as probe:
            # As the server itself: connections that have been closed do not hold a port up.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return candidate
    raise ValueError(f"no free port between {port} and {port + 99}; name another with --port")


@contextmanager
def ui_server(runs_root: Path, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An MLflow server on 127.0.0.1, stopped with all its processes at the end. Yields (address, process) at once:
    it takes half a minute to answer (`wait_until_up`)."""
    quiet()
    address, log = f"http://127.0.0.1:{port}", runs_root / SERVER_LOG
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", ensure_store(runs_root)]
    command += ["--artifacts-destination", str((runs_root / schema.MLFLOW_ARTIFACTS).resolve())]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # its job queue would be idle processes
    with log.open("wb") as output:
        # In a session of its own: Ctrl-C comes to us alone, and we stop it and its workers in order.
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=runs_root, env=environment, start_new_session=True
        )
    try:
        yield address, server
    finally:
        _stop(server)


def wait_until_up(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urlopen(f"{address}/health", timeout=5):
                return
        except (URLError, OSError):
            if server.poll() is not None or time.monotonic() > deadline:
                last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                raise ValueError(f"the MLflow server does not start on {address}: {last} (its log: {log})") from None
            time.sleep(0.2)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server's whole group; what does not go in time is killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _group_lives(server.pid):
            break
        os.killpg(server.pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while _group_lives(server.pid) and time.monotonic() < deadline:
            server.poll()  # reap it, or its zombie keeps the group
            time.sleep(0.05)
    server.wait()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def serve_ui(runs_root: Path, sweep: str | None = None, port: int = 5000) -> None:
    """Bring MLflow up to date, serve its UI until Ctrl-C or SIGTERM, and print where the sweeps' runs are.

    With a server of the user's own (MLFLOW_TRACKING_URI) there is nothing to serve: its links are printed.
    Raises ValueError for an unknown sweep, an empty store, or a server that does not start.
    """
    if not manifests(runs_root, sweep):
        raise ValueError(f"no sweep in {runs_root} yet; run one first: python sweeps/queue_size.py")
    own = user_uri()
    if own is not None and own.startswith(("http://", "https://")):
        print(sync(runs_root, sweep))
        _print_links(runs_root, sweep, shown(own))
        return
    chosen = free_port(port)
    if chosen != port:
        print(f"port {port} is taken, using {chosen}", flush=True)
    # SIGINT too: a shell that starts us in the background has it ignored.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        print("starting the MLflow UI ...", flush=True)
        with ui_server(runs_root, chosen) as (address, server):
            print(sync(runs_root, sweep), flush=True)  # meanwhile
            wait_until_up(server, address, runs_root / SERVER_LOG)
            _print_links(runs_root, sweep, address)
            print("Ctrl-C stops it", flush=True)
            while server.poll() is None:  # not `wait`: polars, which mlflow loads, makes Ctrl-C restart system calls
                time.sleep(0.5)
            raise ValueError(f"the MLflow server has ended by itself; its log: {runs_root / SERVER_LOG}")
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_links(runs_root: Path, sweep: str | None, address: str) -> None:
    client = open_store(runs_root)
    for manifest in manifests(runs_root, sweep):
        experiment = client.get_experiment_by_name(manifest["label"])
        if experiment is None:
            print(f"{manifest['label']}: no run has started yet")
            continue
        runs = run_ids_by_arm(client, experiment.experiment_id, manifest)
        places = links(address, experiment.experiment_id, runs, manifest["metric"])
        print(f"{manifest['label']}\n  runs with charts  {places.charts}\n  compare           {places.compare}")
