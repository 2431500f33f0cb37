"""A throw-away Slurm on this machine: two virtual nodes with two pretend GPUs each, on request with accounting.

    python -m slurm.dev_cluster up|down|status [--folder DIR] [--accounting]

Everything it writes is in one folder; its daemons have ports and a munge key of their own. Slurm's programs find it
by the variable SLURM_CONF. Needs root and Debian's packages slurm-wlm and munge, with accounting also
slurmdbd and mariadb-server. `down` ends every process it started and removes the folder.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

NODES = ("n0", "n1")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
ACCOUNTING_PROGRAMS, ACCOUNTING_PACKAGES = ("slurmdbd", "mariadbd", "sacct"), "slurmdbd mariadb-server"
DAEMONS = (*PROGRAMS, *ACCOUNTING_PROGRAMS)
SYSTEM_CONF = Path("/etc/slurm/slurm.conf")
PATIENCE = 60.0  # seconds to wait for a daemon to answer or to end

# Pretend GPUs: Slurm gives each of these files to one job at a time, as CUDA_VISIBLE_DEVICES 0 and 1.
GRES = "".join(f"NodeName={','.join(NODES)} Name=gpu File={device} Count=1\n" for device in ("/dev/null", "/dev/zero"))

NO_ACCOUNTING = "JobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none"
CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
{accounting}
MpiDefault=none
SwitchType=switch/none
SlurmctldTimeout=60
SlurmdTimeout={node_timeout}
KillWait={kill_wait}
MinJobAge=300
MaxArraySize={max_array_size}
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
{nodes}
PartitionName=dev Nodes={names} Default=YES DefaultTime=60 MaxTime=INFINITE State=UP
{more}
"""


DATABASE_FLAGS = ("--no-defaults", "--skip-log-bin", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M")
SQL = """\
CREATE DATABASE slurm;
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL ON slurm.* TO 'slurm'@'127.0.0.1';
"""
ACCOUNTING_CONF = """\
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


def refusal(*, accounting: bool = False) -> str | None:
    """Why there can be no cluster on this machine, and what to do; None if there can."""
    for programs, packages in (
        (PROGRAMS, "slurm-wlm munge"),
        (ACCOUNTING_PROGRAMS if accounting else (), ACCOUNTING_PACKAGES),
    ):
        missing = [name for name in programs if shutil.which(name, path=_path()) is None]
        if missing:
            return f"{', '.join(missing)}: not on this machine; apt-get install {packages}"
    if os.geteuid() != 0:
        return "needs root, for Slurm starts jobs under the names of their owners; try it with sudo or in a container"
    if SYSTEM_CONF.exists():
        return f"{SYSTEM_CONF}: this machine already belongs to a Slurm; use that one"
    return None


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class DevCluster:
    """The cluster in `folder`, whichever process started it."""

    def __init__(
        self,
        folder: Path,
        *,
        cpus: int = 2,
        max_array_size: int = 1001,
        node_timeout: int = 60,
        kill_wait: int = 30,
        accounting: bool = False,
        name: str = "dev",
        more: str = "",
    ) -> None:
        """`cpus`: of each node; they need not exist. `node_timeout`: seconds until a silent node is down. `kill_wait`:
        seconds from SIGTERM to SIGKILL. `more`: further lines of slurm.conf."""
        self.folder, self.cpus, self.max_array_size = folder.absolute(), cpus, max_array_size
        self.node_timeout, self.kill_wait = node_timeout, kill_wait
        self.name, self.more = name, more
        self.conf = self.folder / "slurm.conf"
        self.accounting = Accounting(self.folder) if accounting else None

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": _path(), "SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Returns when both nodes are idle. Raises ValueError if there can be no cluster here, or it runs already."""
        if why := refusal(accounting=self.accounting is not None):
            raise ValueError(why)
        if self.conf.exists():
            raise ValueError(f"{self.folder}: holds a cluster already; take it down first, or choose another --folder")
        self._write()
        try:
            self._start_munge()
            if self.accounting is not None:
                self.accounting.start(self._daemon, self._until)
            self.start_controller()
            for node in NODES:
                self.start_node(node)
            self._until(lambda: self.states() == ["idle"] * len(NODES), "nodes that are idle")
        except BaseException:
            self.stop(keep=True)
            raise

    def start_controller(self) -> None:
        self._daemon("slurmctld", "-f", str(self.conf))

    def stop_controller(self) -> None:
        """As during an update of Slurm: jobs go on, but the controller does not answer."""
        self._end(f"{self.folder}/slurmctld.pid", signal.SIGTERM)

    def start_node(self, node: str) -> None:
        self._daemon("slurmd", "-N", node, "-f", str(self.conf))

    def kill_node(self, node: str) -> None:
        """Kill its daemon. Its jobs go on, as behind a broken network."""
        self._end(f"{self.folder}/slurmd-{node}.pid", signal.SIGKILL)

    def _end(self, pid_file: str, how: signal.Signals) -> None:
        pid = int(Path(pid_file).read_text())
        os.kill(pid, how)
        self._until(lambda: pid not in self._daemons(), f"the end of process {pid}")

    def states(self) -> list[str]:
        """Slurm's state of each node (`idle*`: it does not answer yet); empty while the controller does not answer."""
        return self._run("sinfo", "--noheader", "--Node", "--format=%T").stdout.split()

    def stop(self, *, keep: bool = False) -> None:
        """End all jobs, then all processes; `keep` leaves the folder with its logs."""
        if self.conf.exists() and self._run("squeue", "--noheader").returncode == 0:
            self._run("scancel", "--user=root", "--full", "--signal=KILL")
            self._run("scancel", "--user=root")
            with suppress(ValueError):
                self._until(lambda: not self._run("squeue", "--noheader").stdout.strip(), "an empty queue", 10.0)
        for wanted in (signal.SIGTERM, signal.SIGKILL):  # daemons of accounting, too
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, wanted)
            with suppress(ValueError):
                self._until(lambda: not self.processes(), "an end", 10.0)
        if self.accounting is not None and self.accounting.database is not None:
            self.accounting.database.wait()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self) -> list[int]:
        """All living processes of this cluster: daemons, steps and jobs, but not clients."""
        return sorted(set(self._daemons()) | set(self._jobs()))

    def _daemons(self) -> Iterator[int]:
        for file in self.folder.glob("*.pid"):
            with suppress(ValueError, OSError):
                pid = int(file.read_text())
                if Path(f"/proc/{pid}/comm").read_text().strip() in DAEMONS and _state(pid) != "Z":
                    yield pid

    def _jobs(self) -> Iterator[int]:
        ours = f"SLURM_CONF={self.conf}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                variables = (entry / "environ").read_bytes().split(b"\0")
                daemon = (entry / "comm").read_text().startswith(("slurmstepd", "slurmd", "slurmctld"))
                in_job = any(v.startswith(b"SLURM_JOB_ID=") for v in variables)
                if ours in variables and (daemon or in_job) and _state(int(entry.name)) != "Z":
                    yield int(entry.name)

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir(exist_ok=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        control, accounts, database, *ports = _free_ports(3 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={self.cpus} RealMemory={4000 * self.cpus} Gres=gpu:2"
            for node, port in zip(NODES, ports, strict=True)
        )
        (self.folder / "gres.conf").write_text(GRES)
        self.conf.write_text(
            CONF.format(
                host=host,
                control_port=control,
                folder=self.folder,
                nodes=nodes,
                names=",".join(NODES),
                max_array_size=self.max_array_size,
                node_timeout=self.node_timeout,
                kill_wait=self.kill_wait,
                name=self.name,
                more=self.more,
                accounting=self.accounting.write(accounts, database) if self.accounting else NO_ACCOUNTING,
            )
        )

    def _start_munge(self) -> None:
        files = {"key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munge.seed"}
        flags = [f"--{flag}={self.folder / name}" for flag, name in files.items()]
        self._daemon("munged", "--force", f"--socket={self.folder / 'munge.socket'}", *flags)
        self._until((self.folder / "munge.socket").exists, "munge's socket")

    def _daemon(self, *command: str) -> None:
        """Start a daemon, which puts itself into the background when it is ready."""
        result = self._run(*command)
        if result.returncode != 0:
            lines = (result.stderr or result.stdout).strip().splitlines() or ["it printed nothing"]
            raise ValueError(f"{command[0]} did not start: {lines[-1]} (logs in {self.folder})")

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            # Files, not pipes: a daemon would keep a pipe open, and `run` would wait for it to end.
            result = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environment(),
                check=False,
                cwd=self.folder,
            )
            out.seek(0), err.seek(0)
            return subprocess.CompletedProcess(command, result.returncode, out.read(), err.read())

    def _until(self, true: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not true():
            if time.monotonic() > deadline:
                raise ValueError(f"waited {patience:.0f} s in vain for {what}; logs in {self.folder}")
            time.sleep(0.1)


class Accounting:
    """A MariaDB in the cluster's folder, on a loopback port and with a password of its own, and slurmdbd in front of it.

    With it `sacct` answers. Like all of the cluster, its processes are found by their pid files in `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.database_port = folder, folder / "database", 0
        self.database: subprocess.Popen[bytes] | None = None  # where this process has started it

    def write(self, port: int, database_port: int) -> str:
        """Write its own files; returns the lines for slurm.conf."""
        self.database_port = database_port
        password = secrets.token_hex(16)
        _secret(self.folder / "accounts.sql", SQL.format(password=password))
        conf = ACCOUNTING_CONF.format(folder=self.folder, port=port, database_port=database_port, password=password)
        _secret(self.folder / "slurmdbd.conf", conf)
        return SETTINGS.format(port=port, folder=self.folder)

    def start(self, daemon: Callable[..., None], until: Callable[..., None]) -> None:
        """Called before the controller starts. `daemon` starts a program in the background, `until` waits for a condition."""
        self._make_database()
        self._start_database()
        until(self._database_is_up, "the database of the accounts")
        daemon("slurmdbd")
        until(lambda: self._add_cluster(daemon), "slurmdbd")

    def _make_database(self) -> None:
        result = subprocess.run(
            ["mariadb-install-db", *DATABASE_FLAGS, "--user=root", f"--datadir={self.data}", "--skip-test-db"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )
        if result.returncode:
            raise ValueError(f"mariadb-install-db: {(result.stderr or result.stdout).strip().splitlines()[-1]}")

    def _start_database(self) -> None:
        files = {"socket": "mariadb.socket", "pid-file": "mariadbd.pid", "init-file": "accounts.sql"}
        flags = [f"--datadir={self.data}", "--user=root", f"--port={self.database_port}", "--bind-address=127.0.0.1"]
        flags += [f"--{flag}={self.folder / name}" for flag, name in files.items()]
        program = shutil.which("mariadbd") or "/usr/sbin/mariadbd"  # an ordinary user's PATH may lack it
        with (self.folder / "mariadbd.log").open("w") as log:
            self.database = subprocess.Popen(
                [program, *DATABASE_FLAGS, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )

    def _database_is_up(self) -> bool:
        """Whether it listens, which it does after it has run its init file."""
        try:
            socket.create_connection(("127.0.0.1", self.database_port), timeout=1).close()
        except OSError:
            return False
        return True

    def _add_cluster(self, daemon: Callable[..., None]) -> bool:
        """Returns False while slurmdbd does not accept the cluster yet."""
        try:
            daemon("sacctmgr", "--immediate", "add", "cluster", "dev")
        except ValueError:
            return False
        return True


def _secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m slurm.dev_cluster", description="A throw-away Slurm on this machine"
    )
    parser.add_argument("verb", choices=("up", "down", "status"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "moco-dev-slurm", metavar="DIR")
    parser.add_argument("--accounting", action="store_true", help="with a database, so that sacct answers")
    options = parser.parse_args(arguments)
    cluster = DevCluster(options.folder, accounting=options.accounting)
    try:
        return _carry_out(cluster, options.verb)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _carry_out(cluster: DevCluster, verb: str) -> int:
    if verb == "up":
        cluster.start()
    if verb == "down":
        cluster.stop()
        sys.stdout.write("down\n")
        return 0
    states = cluster.states() if cluster.conf.exists() else []
    if not states:
        sys.stdout.write(f"no cluster in {cluster.folder}\n")
        return 1
    nodes = ", ".join(f"{node} {state}" for node, state in zip(NODES, states, strict=False))
    sys.stdout.write(f"{nodes}\nexport SLURM_CONF={cluster.conf}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
