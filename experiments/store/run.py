"""One run on disk, of which Slurm, MLflow and the tables are views. File names: `experiments.store.schema`."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from experiments.store import schema
from experiments.store.files import Appender, json_text, now, read_json, read_lines, replace_json, replace_text
from experiments.store.journal import Record, read_journal
from experiments.store.records import checked, read_record
from experiments.store.states import heartbeat_age, lock_is_held, this_process

RUNS_VARIABLE = "MOCO_RUNS"

_held: set[int] = set()  # descriptors of the locks that this process holds


def _close_locks() -> None:
    """A forked child (a data-loading process) must not keep the run locked after its parent was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_locks)


class Busy(Exception):
    """Another process works on this run; the message names it."""


def runs_root() -> Path:
    """$MOCO_RUNS, by default `runs/` in the current folder."""
    return Path(os.environ.get(RUNS_VARIABLE) or "runs").absolute()


class RunDirectory:
    """`RUNS/<run id>`. A process must hold the lock to change a run; reading needs no lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_id(self) -> str:
        return self.path.name

    def exists(self) -> bool:
        return (self.path / schema.CONFIG).exists()

    def create(self, config: dict[str, Any]) -> None:
        """Make the directory with its config in plain values, whole or not at all. An existing directory stays as it is."""
        if self.exists():
            return
        staged = self.path.with_name(f".{self.path.name}.{uuid4().hex[:12]}")
        staged.mkdir(parents=True)
        replace_json(staged / schema.CONFIG, config)
        try:
            staged.rename(self.path)
        except OSError:  # another process has made it
            (staged / schema.CONFIG).unlink()
            staged.rmdir()
            if not self.exists():
                raise

    def config(self) -> dict[str, Any]:
        """The config in plain values (`experiments.plan.configs` reads them). Raises ValueError if there is no run."""
        plain: dict[str, Any] | None = read_json(self.path / schema.CONFIG)
        if plain is None:
            raise ValueError(f"{self.path}: not a run directory, it has no {schema.CONFIG}")
        return plain

    def update_config(self, config: dict[str, Any]) -> None:
        """Take over cosmetic fields (paths, workers, device) of a later launch; the identity stays."""
        replace_json(self.path / schema.CONFIG, config)

    def describe(self, environment: dict[str, Any] | str, diff: str) -> None:
        """Record the machine and code of the next attempt. `environment`: a dict, or JSON text made once for many runs."""
        text = environment if isinstance(environment, str) else json_text(environment)
        replace_text(self.path / schema.ENVIRONMENT, text)
        replace_text(self.path / schema.DIFF, diff)

    def status(self) -> schema.Status | None:
        return read_record(schema.Status, self.path / schema.STATUS)

    def write_status(self, status: schema.Status) -> None:
        host, pid, started = this_process()
        replace_json(
            self.path / schema.STATUS,
            {**status, "host": host, "pid": pid, "process_started": started, "updated": now()},
        )

    def results(self) -> schema.Results | None:
        return read_record(schema.Results, self.path / schema.RESULTS)

    def hits(self) -> dict[str, schema.Hits]:
        """Readout -> which test images it got right; empty for an older run. Raises ValueError for a damaged file."""
        path = self.path / schema.HITS
        found = read_json(path)
        if found is None and not path.exists():
            return {}
        if not isinstance(found, dict):
            raise ValueError(f"{path}: damaged, not a JSON object")
        return {name: checked(schema.Hits, value, f"{path}, {name}") for name, value in found.items()}

    def add_hits(self, new: Mapping[str, Mapping[str, Any]]) -> None:
        """Beside those of other readouts, the file replaced as a whole. A damaged file is replaced by the new ones alone."""
        if not new:
            return
        try:
            old = self.hits()
        except ValueError:
            old = {}
        replace_json(self.path / schema.HITS, {**old, **new}, sync=True)

    def attempts(self) -> list[schema.Attempt]:
        path = self.path / schema.ATTEMPTS
        lines = enumerate(read_lines(path), start=1)
        return [checked(schema.Attempt, line, f"{path}, line {number}") for number, line in lines]

    def append_attempt(self, line: schema.Attempt) -> None:
        with Appender(self.path / schema.ATTEMPTS) as attempts:
            attempts.append(line, sync=True)

    def journal(self) -> Appender:
        return Appender(self.path / schema.JOURNAL)

    def records(self) -> list[Record]:
        """The journal without the records that a resume made void. Raises ValueError for a damaged line."""
        path = self.path / schema.JOURNAL
        records, damaged = read_journal(path)
        if damaged:
            raise ValueError(f"{path}, line {damaged[0]}: damaged, not JSON of a metric record")
        return records

    @contextmanager
    def locked(self, patience: float = 0.5) -> Iterator[None]:
        """Hold the run's lock; raises `Busy` if another process does. The kernel frees the lock when its holder dies.

        `patience`: seconds to wait for it, longer than a caller of `is_locked` holds it.
        """
        with (self.path / schema.LOCK).open("a") as file:
            deadline = time.monotonic() + patience
            while not _try_lock(file.fileno()):
                if time.monotonic() > deadline:
                    raise Busy(f"{self.path}: {self.holder()} works on it")
                time.sleep(0.01)
            _held.add(file.fileno())
            try:
                yield
            finally:
                _held.discard(file.fileno())

    def is_locked(self) -> bool:
        return lock_is_held(self.path)

    def holder(self) -> str:
        """The process that wrote the status last, in words."""
        status = self.status() or {}
        return f"process {status.get('pid', '?')} on {status.get('host', 'an unknown host')}"

    def beat(self) -> None:
        (self.path / schema.HEARTBEAT).touch()

    def heartbeat_age(self) -> float | None:
        """Seconds since the worker's last heartbeat; None if there was none."""
        return heartbeat_age(self.path)

    def request_cancel(self) -> None:
        (self.path / schema.CANCEL).touch()

    def withdraw_cancel(self) -> None:
        (self.path / schema.CANCEL).unlink(missing_ok=True)

    def cancel_requested(self) -> bool:
        return (self.path / schema.CANCEL).exists()

    def request_prune(self, reason: str) -> None:
        replace_text(self.path / schema.PRUNE, reason)

    def withdraw_prune(self) -> None:
        (self.path / schema.PRUNE).unlink(missing_ok=True)

    def prune_requested(self) -> str | None:
        """The reason that a search gave for ending the run early; None if none did."""
        try:
            return (self.path / schema.PRUNE).read_text()
        except FileNotFoundError:
            return None

    def set_aside(self) -> Path:
        """Move the whole directory to `set-aside/`. Returns its new path; raises `Busy` while another process works on it."""
        target = self.path.parent / schema.SET_ASIDE_FOLDER / f"{self.run_id}.{now().replace(':', '')}"
        with self.locked():
            target.parent.mkdir(exist_ok=True)
            self.path.rename(target)
        return target


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
