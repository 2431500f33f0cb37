"""Accounting for the throw-away Slurm: a MariaDB in its folder, on a loopback port and with a password of its own, and
slurmdbd in front of it. With it `sacct` answers; nothing of ours needs that, it only adds to what is known.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

DATABASE_FLAGS = ("--no-defaults", "--skip-log-bin", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M")
SQL = """\
CREATE DATABASE slurm;
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL ON slurm.* TO 'slurm'@'127.0.0.1';
"""
CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""
SETTINGS = """\
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket"""


class Accounting:
    """The processes are found again by their pid files in `folder`, as all of the cluster are."""

    PROGRAMS = ("slurmdbd", "mariadbd", "sacct")
    PACKAGES = "slurmdbd mariadb-server"

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "database"

    def write(self, port: int, database_port: int) -> str:
        """Its own files; returns the lines for slurm.conf."""
        password = secrets.token_hex(16)
        _secret(self.folder / "accounts.sql", SQL.format(password=password))
        conf = CONF.format(folder=self.folder, port=port, database_port=database_port, password=password)
        _secret(self.folder / "slurmdbd.conf", conf)
        self.flags = [f"--datadir={self.data}", "--user=root", f"--port={database_port}", "--bind-address=127.0.0.1"]
        return SETTINGS.format(port=port, folder=self.folder)

    def start(self, daemon: Callable[..., None], until: Callable[..., None]) -> None:
        """Before the controller. `daemon` runs what puts itself into the background, `until` waits."""
        self._make_database()
        self._start_database()
        until(self._database_is_up, "the database of the accounts")
        daemon("slurmdbd")
        until(lambda: self._known(daemon), "slurmdbd")

    def _make_database(self) -> None:
        made = subprocess.run(
            ["mariadb-install-db", *DATABASE_FLAGS, "--user=root", f"--datadir={self.data}", "--skip-test-db"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=self.folder,
        )  # fmt: skip
        if made.returncode:
            raise ValueError(f"mariadb-install-db: {(made.stderr or made.stdout).strip().splitlines()[-1]}")

    def _start_database(self) -> None:
        files = {"socket": "mariadb.socket", "pid-file": "mariadbd.pid", "init-file": "accounts.sql"}
        flags = [f"--{flag}={self.folder / name}" for flag, name in files.items()]
        with (self.folder / "mariadbd.log").open("w") as log:
            subprocess.Popen(
                [_mariadbd(), *DATABASE_FLAGS, *self.flags, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd=self.folder,
            )  # fmt: skip

    def _database_is_up(self) -> bool:
        """It listens after it has run its init file."""
        port = int(self.flags[2].partition("=")[2])
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    def _known(self, daemon: Callable[..., None]) -> bool:
        """The cluster has its accounts."""
        try:
            daemon("sacctmgr", "--immediate", "add", "cluster", "dev")
        except ValueError:
            return False
        return True


def _mariadbd() -> str:
    """Also where an ordinary user's PATH does not lead."""
    return shutil.which("mariadbd") or "/usr/sbin/mariadbd"


def _secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
