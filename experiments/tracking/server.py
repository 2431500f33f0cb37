"""An `mlflow server` as a child process: its store's password by environment only, stopped with all its processes."""

from __future__ import annotations

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
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from experiments.tracking.database import PASSWORD, Store
from experiments.tracking.store import quiet

START_SECONDS, STOP_SECONDS = 300.0, 10.0
SERVER_LOG = "mlflow-server.log"
ANY_ADDRESS = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Server:
    """A server that may still be starting (`wait_until_up`). `address` is where this machine reaches it."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def wait_until_up(self) -> None:
        """Half a minute on a small machine. Raises ValueError, with its last words, if it ends instead."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{self.address}/health"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                last = (self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                raise ValueError(f"the MLflow server does not start on {self.address}: {last} (its log: {self.log})")
            time.sleep(0.2)

    def wait(self) -> None:
        """Until it ends by itself, which is an error: Ctrl-C ends it otherwise."""
        while self.process.poll() is None:  # not `wait`: polars, which mlflow loads, makes Ctrl-C restart system calls
            time.sleep(0.5)
        raise ValueError(f"the MLflow server has ended by itself; its log: {self.log}")


def answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5):
            return True
    except HTTPError:
        return True
    except (URLError, OSError):
        return False


@contextmanager
def running(
    folder: Path,
    store: Store,
    *,
    host: str = "127.0.0.1",
    port: int,
    artifacts: str,
    workers: int = 1,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start a server on the store, with its log in `folder`; stop it at the end."""
    quiet()
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", str(workers)]
    command += ["--artifacts-destination", artifacts, *options]
    secret = {PASSWORD: store.password} if store.password is not None else {}
    own = {
        "MLFLOW_BACKEND_STORE_URI": store.uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job queue would be idle processes
    }
    inherited = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    log = folder / SERVER_LOG
    with log.open("wb") as output:
        # In a session of its own: Ctrl-C comes to us alone, and we stop it and its workers in order.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
            env={**inherited, **own, **secret, **(environment or {})},
        )  # fmt: skip
    try:
        yield Server(process, f"http://{bracketed('127.0.0.1' if host in ANY_ADDRESS else host)}:{port}", log)
    finally:
        _stop(process)


def bracketed(host: str) -> str:
    """A host as it stands in an address."""
    return f"[{host}]" if ":" in host else host


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server itself: connections that have been closed do not hold a port up.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(port: int) -> int:
    """`port`, or the next one that nobody listens on."""
    for candidate in range(port, min(port + 100, 65_536)):
        if is_free(candidate):
            return candidate
    raise ValueError(f"no free port between {port} and {port + 99}; name another with --port")


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block, without a traceback."""
    # SIGINT too: a shell that starts us in the background has it ignored.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
