"""MLflow servers: the child process, and `python -m experiments serve` for a team, on PostgreSQL or a SQLite file.

    running    an `mlflow server` as a child process, stopped with all its processes
    serve      the command

Anyone who can reach the port can read and delete every result, so without `--auth` it must be a loopback address. The
database's password is taken out of the command line at once (the process restarts itself without it), and reaches the
server by the environment.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from experiments.store import schema
from experiments.store.mlflow import SERVER_LOG, quiet
from experiments.tracking.database import PASSWORD, Store, keep_password_aside, prepare

START_SECONDS, STOP_SECONDS = 300.0, 10.0
ANY_ADDRESS = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Server:
    """A server that may still be starting (`wait_until_up`). `address` is where this machine reaches it."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def wait_until_up(self) -> None:
        """It takes half a minute on a small machine. Raises ValueError, with the log's last line, if the server ends."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{self.address}/health"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                last = (self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                raise ValueError(f"the MLflow server does not start on {self.address}: {last} (its log: {self.log})")
            time.sleep(0.2)

    def wait(self) -> None:
        """Wait until interrupted. Raises ValueError if the server ends by itself."""
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
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
            env={**inherited, **own, **secret, **(environment or {})},
        )
    try:
        yield Server(process, f"http://{bracketed('127.0.0.1' if host in ANY_ADDRESS else host)}:{port}", log)
    finally:
        _stop(process)


def bracketed(host: str) -> str:
    """A host as written in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server does: connections that have been closed do not keep the port.
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
    """End all processes of the server's group; those that do not end in time are killed."""
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


ADMIN, ADMIN_PASSWORD, SECRET_KEY, AUTH_CONFIG = (
    "MLFLOW_AUTH_ADMIN_USERNAME",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_AUTH_CONFIG_PATH",
)
AUTH_FILE = "mlflow-auth.ini"
PRIVATE = ("10.*", "192.168.*", *(f"172.{i}.*" for i in range(16, 32)), "fc00:*", "fd00:*")


@dataclass(frozen=True)
class Team:
    """How a team reaches the server. `names`: further host names of it, such as a proxy's."""

    host: str = "127.0.0.1"
    port: int = 5000
    auth: bool = False
    names: tuple[str, ...] = ()
    workers: int = 4

    def check(self) -> None:
        """Raises ValueError for a server that is open to others without passwords, a missing package and a bad port."""
        if not self.auth and not is_loopback(self.host):
            raise ValueError(
                f"--host {self.host}: others could read and delete every result without a password; add --auth, "
                "or use 127.0.0.1 and an ssh tunnel"
            )
        if self.auth and find_spec("flask_wtf") is None:
            raise ValueError("--auth: needs flask-wtf, which is not installed: pip install '.[auth]'")
        if self.workers < 1:
            raise ValueError(f"--workers {self.workers}: must be at least 1")
        if not 1 <= self.port <= 65_535:
            raise ValueError(f"--port {self.port}: must be 1 to 65535")
        if not is_free(self.port, self.host):
            raise ValueError(f"--port {self.port}: taken on {self.host}, or not this machine's address; name another")


def serve(runs_root: Path, store: str, team: Team, *, artifacts: str | None = None, migrate: bool = False) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises ValueError, in one line, for wrong input and a server that does not start."""
    parsed = Store.parse(store)
    _hide_password(parsed, store)
    keep_password_aside(parsed)
    team.check()
    runs_root.mkdir(parents=True, exist_ok=True)
    quiet()
    with until_interrupted():
        print(f"preparing {parsed.shown} ...", flush=True)
        prepare(parsed.uri, migrate=migrate)
        place = artifacts or str((runs_root / schema.MLFLOW_ARTIFACTS).resolve())
        options, environment = _authentication(runs_root, parsed, team)
        with running(
            runs_root,
            parsed,
            host=team.host,
            port=team.port,
            artifacts=place,
            workers=team.workers,
            options=[*_reachable(team), *options],
            environment=environment,
        ) as server:
            server.wait_until_up()
            print("\n".join(_directions(team, parsed, place)), flush=True)
            server.wait()


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hide_password(parsed: Store, typed: str) -> None:
    """Restart this process without the password in its arguments, which everyone on the machine can list."""
    if parsed.password is None or not any(typed in argument for argument in sys.orig_argv):
        return
    arguments = [argument.replace(typed, parsed.shown) for argument in sys.orig_argv[1:]]
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *arguments], {**os.environ, PASSWORD: parsed.password})


def _authentication(folder: Path, store: Store, team: Team) -> tuple[Sequence[str], dict[str, str]]:
    """Flags and environment for users and passwords, which are kept in the same PostgreSQL database, or in a file beside
    the SQLite one. The config file has no secret."""
    if not team.auth:
        return [], {}
    environment = {SECRET_KEY: os.environ.get(SECRET_KEY) or secrets.token_hex(32)}
    if not os.environ.get(AUTH_CONFIG):
        users = f"{store.uri}.users" if store.is_sqlite else store.uri
        lines = [
            "[mlflow]",
            "default_permission = EDIT",  # members of a team write into each other's experiments
            f"database_uri = {users.replace('%', '%%')}",
            f"admin_username = {os.environ.get(ADMIN, 'admin')}",
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        ]
        if store.is_sqlite:
            _private(Path(users.partition(":///")[2]))
        _private(folder / AUTH_FILE).write_text("\n".join(lines) + "\n")
        environment[AUTH_CONFIG] = str((folder / AUTH_FILE).resolve())
    return ["--app-name", "basic-auth"], environment


def _private(path: Path) -> Path:
    """Make the file, if it is not there, so that only its owner can read it: it names users, or holds their passwords."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    path.chmod(0o600)
    return path


def _reachable(team: Team) -> list[str]:
    """The host names that the server accepts; it refuses others, against DNS rebinding."""
    if is_loopback(team.host) and not team.names:
        return []
    names = list(dict.fromkeys([*team.names, *own_names(), *([] if team.host in ANY_ADDRESS else [team.host])]))
    local = ["localhost", "127.0.0.1"]
    hosts = [pattern for name in [*local, *map(bracketed, names)] for pattern in (name, f"{name}:*")]
    origins = [
        f"{scheme}://{name}{port}"
        for name in map(bracketed, names)
        for scheme in ("http", "https")
        for port in ("", ":*")
    ]
    return ["--allowed-hosts", ",".join([*hosts, *PRIVATE]), "--cors-allowed-origins", ",".join(origins)]


def own_names() -> list[str]:
    """This machine's names and addresses, as far as it knows them itself."""
    names = {socket.gethostname(), socket.getfqdn()}
    try:
        _, aliases, addresses = socket.gethostbyname_ex(socket.gethostname())
    except OSError:
        aliases, addresses = [], []
    return sorted({*names, *aliases, *addresses} - {""})


def _directions(team: Team, store: Store, artifacts: str) -> list[str]:
    host = (team.names or (socket.getfqdn(),))[0] if team.host in ANY_ADDRESS else team.host
    address = f"http://{bracketed(host)}:{team.port}"
    login = ["  export MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=..."] if team.auth else []
    return [
        f"MLflow is at {address}, on {store.shown}, artifacts in {artifacts}",
        f"  export MLFLOW_TRACKING_URI={address}",
        *login,
        "Everyone who sets this sends runs there: sweeps as they go, python -m experiments sync at any time.",
        "Ctrl-C stops it",
    ]
