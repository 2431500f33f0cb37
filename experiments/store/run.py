"""One run on disk, of which Slurm, MLflow and the tables are views. File names: `experiments.store.schema`."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

from experiments.store import schema
from experiments.store.files import (
    Appender,
    Damaged,
    json_text,
    lines_in_words,
    move_aside,
    no_file,
    now,
    read_json,
    remove_abandoned,
    replace_json,
    replace_text,
    sound_lines,
    unreadable,
    warn_once,
)
from experiments.store.journal import Record, read_journal
from experiments.store.records import checked, problem, read_record
from experiments.store.states import heartbeat_age, lock_is_held, this_process

RUNS_VARIABLE = "MOCO_RUNS"
Kind = TypeVar("Kind", schema.Status, schema.Results)

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
        replace_json(staged / schema.CONFIG, config, sync=True)
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
        if not isinstance(plain, dict):
            raise Damaged(self.path / schema.CONFIG, "not a JSON object; the sweep's command writes it anew")
        return plain

    def update_config(self, config: dict[str, Any]) -> None:
        """Take over cosmetic fields (paths, workers, device) of a later launch; the identity stays."""
        replace_json(self.path / schema.CONFIG, config, sync=True)

    def describe(self, environment: dict[str, Any] | str, diff: str) -> None:
        """Record the machine and code of the next attempt. `environment`: a dict, or JSON text made once for many runs."""
        text = environment if isinstance(environment, str) else json_text(environment)
        replace_text(self.path / schema.ENVIRONMENT, text)
        replace_text(self.path / schema.DIFF, diff)

    def status(self) -> schema.Status | None:
        """None, too, for a damaged file, which is named on standard error: it harms no other run."""
        return self._lenient(schema.Status, schema.STATUS, "the next attempt writes it anew")

    def checked_status(self) -> schema.Status | None:
        """Raises Damaged."""
        return read_record(schema.Status, self.path / schema.STATUS)

    def _lenient(self, kind: type[Kind], name: str, remedy: str) -> Kind | None:
        try:
            return read_record(kind, self.path / name)
        except Damaged as error:
            warn_once(f"{error}; not used: {remedy}")
            return None

    def write_status(self, status: schema.Status) -> None:
        host, pid, started = this_process()
        replace_json(
            self.path / schema.STATUS,
            {**status, "host": host, "pid": pid, "process_started": started, "updated": now()},
            sync=True,
        )

    def results(self) -> schema.Results | None:
        """None, too, for a damaged file, which is named on standard error: the run then counts as not done."""
        return self._lenient(schema.Results, schema.RESULTS, "the sweep's command makes it anew from the journal")

    def checked_results(self) -> schema.Results | None:
        """Raises Damaged."""
        """None if there are none. Raises ValueError for a file that is damaged, such as one that has no readouts at all."""
        found = read_record(schema.Results, self.path / schema.RESULTS)
        if found is not None and "test" not in found:
            raise ValueError(f"{self.path / schema.RESULTS}: damaged, without test")
        return found

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
        """Damaged lines are left out and named on standard error. Raises ValueError for a file that cannot be read."""
        found, damaged = self.checked_attempts()
        if damaged:
            warn_once(f"{self.path / schema.ATTEMPTS}, {lines_in_words(damaged)}: damaged, left out; the rest is used")
        return found

    def checked_attempts(self) -> tuple[list[schema.Attempt], list[int]]:
        """The attempts, and the numbers of damaged lines. Raises ValueError for a file that cannot be read."""
        path, found = self.path / schema.ATTEMPTS, list[schema.Attempt]()
        try:
            lines, damaged = sound_lines(path)
        except OSError as error:
            raise unreadable(path, error) from None
        for number, line in lines:
            if problem(schema.Attempt, line) is None and {"event", "attempt"} <= line.keys():
                found.append(cast(schema.Attempt, line))
            else:
                damaged.append(number)
        return found, sorted(damaged)

    def append_attempt(self, line: schema.Attempt) -> None:
        with Appender(self.path / schema.ATTEMPTS) as attempts:
            attempts.append(line, sync=True)

    def journal(self) -> Appender:
        return Appender(self.path / schema.JOURNAL)

    def records(self) -> list[Record]:
        """The journal without the records that a resume made void. Damaged lines are left out and named on standard error.

        Raises ValueError for a file that cannot be read.
        """
        path = self.path / schema.JOURNAL
        try:
            records, damaged = read_journal(path)
        except OSError as error:
            raise unreadable(path, error) from None
        if damaged:
            warn_once(f"{path}, {lines_in_words(damaged)}: damaged, left out; the rest is used")
        return records

    @contextmanager
    def locked(self, patience: float = 0.5) -> Iterator[None]:
        """Hold the run's lock; raises `Busy` if another process does. The kernel frees the lock when its holder dies.

        `patience`: seconds to wait for it, longer than a caller of `is_locked` holds it.
        """
        if no_file(self.path / schema.LOCK):
            move_aside(self.path / schema.LOCK)
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

    def beat(self, attempt: int = 0, seconds: float = 0.0) -> None:
        """Show that the worker lives, and for how long it has: of a killed attempt that is its length. 0: of no attempt."""
        descriptor = os.open(self.path / schema.HEARTBEAT, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.pwrite(descriptor, f"{attempt:>9} {seconds:>15.3f}\n".encode(), 0)  # one size: never seen in part
        finally:
            os.close(descriptor)

    def lived(self, attempt: int) -> float | None:
        """Seconds that this attempt lived by its last heartbeat; None if it had none, or one of an older version."""
        try:
            number, seconds = (self.path / schema.HEARTBEAT).read_text(encoding="utf-8").split()
            return float(seconds) if int(number) == attempt and 0 <= float(seconds) < math.inf else None
        except (OSError, ValueError):
            return None

    def heartbeat_age(self) -> float | None:
        """Seconds since the worker's last heartbeat; None if there was none, or one in the future."""
        return heartbeat_age(self.path)

    def last_beat(self) -> int | None:
        """When the heartbeat was written, in ns of the disk's clock: to be held against a later one. None without one."""
        try:
            return (self.path / schema.HEARTBEAT).stat().st_mtime_ns
        except OSError:
            return None

    def tidy(self) -> None:
        """For the holder of the lock: remove what killed writers left, and move what is no file (a loop of links) aside."""
        remove_abandoned(self.path)
        for name in (schema.HEARTBEAT, schema.LOG, schema.ATTEMPTS, schema.JOURNAL, schema.STATUS, schema.RESULTS):
            if no_file(self.path / name):
                move_aside(self.path / name)

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
            return (self.path / schema.PRUNE).read_text(encoding="utf-8", errors="replace")
        except OSError:
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
