"""`open_storage`: where an Optuna study is kept, a journal file beside the runs or a database.

The journal is a file of lines, with a lock that works on a shared disk. After a writer died in the middle of a line, the
next line would follow on the same one, and nobody could read on. So each append checks the file's end first.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from experiments.store.files import now, replace_text
from experiments.store.mlflow import without_login

CONNECT_SECONDS = 10  # to a database server


def quiet() -> None:
    """Let Optuna log errors only: a search prints its own lines. Its experimental parts are used on purpose."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"optuna\..*")
    warnings.filterwarnings("ignore", message=".*reported value is ignored.*")


class MendingJournal(JournalFileBackend):
    """A journal that cuts off a half-written last line before it appends, under the lock, and keeps a backup."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=JournalFileOpenLock(str(path)))
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._lock.acquire()
        try:
            if _torn(self.path):
                mend(self.path)
            with self.path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        finally:
            self._lock.release()

    def check(self) -> str | None:
        """Mend the whole file. Returns a sentence on what was done, None if nothing was wrong."""
        self._lock.acquire()
        try:
            return mend(self.path)
        finally:
            self._lock.release()


def _torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def mend(path: Path) -> str | None:
    """Remove half-written lines; the lock must be held. A whole line that follows one on the same line is kept."""
    content = path.read_bytes()
    kept = [line for raw in content.splitlines(keepends=True) for line in [_whole(raw)] if line is not None]
    text = b"".join(kept)
    if text == content:
        return None
    backup = path.with_name(f"{path.name}.torn-{now().replace(':', '')}")
    shutil.copyfile(path, backup)
    replace_text(path, text.decode(), sync=True)
    return f"{path}: a line that its writer did not finish was cut out; the file as it was: {backup.name}"


def _whole(line: bytes) -> bytes | None:
    if line.endswith(b"\n") and _is_json(line):
        return line
    behind = line.rfind(b'{"op_code"', 1)  # how each line begins
    return line[behind:] if behind > 0 and line.endswith(b"\n") and _is_json(line[behind:]) else None


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def open_storage(address: str | None, journal: Path) -> BaseStorage:
    """The database at `address`, or the journal. Raises ValueError in one line when it cannot be reached."""
    quiet()
    if address is None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        backend = MendingJournal(journal)
        if (mended := backend.check()) is not None:
            print(mended, file=sys.stderr, flush=True)
        return JournalStorage(backend)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    postgres = address.startswith("postgresql")
    options: dict[str, Any] = {"connect_args": {"connect_timeout": CONNECT_SECONDS}} if postgres else {}
    try:
        return RDBStorage(address, engine_kwargs=options)
    except ImportError as error:
        raise ValueError(
            f"--storage {without_login(address)}: {error.name} is not installed; pip install psycopg[binary]"
        ) from None
    except Exception as error:  # of the driver, which cannot be imported to be named
        raise ValueError(
            f"--storage {without_login(address)}: cannot be reached: {_sentence(error, address)}"
        ) from None


def _sentence(error: BaseException, address: str) -> str:
    """The driver's message, in one line and without a password."""
    cause = error.__cause__ or getattr(error, "orig", None) or error
    text = str(cause) or type(cause).__name__
    first = " ".join(text.splitlines()[0].split())
    return without_login(address, first)[:200]
