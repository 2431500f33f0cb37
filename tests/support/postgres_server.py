"""A throw-away PostgreSQL on a loopback port, from Debian's `postgresql` package; nothing of it stays.

    with postgres() as server:
        server.uri("some_database")     postgresql://moco:<password>@127.0.0.1:PORT/some_database, made if needed

PostgreSQL refuses to run as root, so root starts it as the user `postgres` (which the package makes), in a folder of that
user's own. As the password holds characters that mean something in an address, it is one that finds careless quoting.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.parts import require_part

USER, PASSWORD = "moco", "s3cr%t/p@ss:word"
SECONDS = 60.0


@dataclass(frozen=True)
class Postgres:
    port: int

    def address(self, database: str) -> str:
        """Without the password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def uri(self, database: str) -> str:
        """With the password; the database is made unless it is there."""
        with self.connection("postgres") as connection:
            found = connection.execute("select 1 from pg_database where datname = %s", (database,)).fetchone()
            if found is None:
                connection.execute(f'create database "{database}"')
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def connection(self, database: str) -> Iterator[Any]:
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
        ) as connection:
            yield connection


def binaries() -> Path:
    """Debian keeps them out of the PATH, a folder for each major version; the newest."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parent.parent.name))
    return found[-1].parent if found else Path(require_part("postgres")).parent


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Started anew; stopped and removed at the end. Skips, or fails in CI, where the package is missing."""
    programs, owner = binaries(), "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="moco-postgres-"))  # not pytest's: that is closed to other users
    as_owner: dict[str, Any] = {"user": owner, "group": pwd.getpwnam(owner).pw_gid} if os.geteuid() == 0 else {}
    try:
        _initialise(programs, folder, owner, as_owner)
        port = _free_port()
        # No flush to the disk: it need not survive a power cut.
        command = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=60"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True, **as_owner)
        try:
            _wait(server, port, folder / "log")
            yield Postgres(port)
        finally:
            server.send_signal(2)  # fast shutdown: sessions are cut
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _initialise(programs: Path, folder: Path, owner: str, as_owner: dict[str, Any]) -> None:
    shutil.chown(folder, owner)
    password = folder / "password"
    password.write_text(PASSWORD + "\n")
    shutil.chown(password, owner)
    command = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", USER, "-A", "scram-sha-256", "--no-sync"]
    command += ["--pwfile", str(password), "--encoding", "UTF8", "--locale", "C"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, **as_owner)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with Postgres(port).connection("postgres"):
                return
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
