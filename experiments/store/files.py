"""Files that survive a crash at any instant, and tools for many of them.

replace_text, replace_json      replace a file as a whole; read_json reads it
Appender                        append JSON lines; sound_lines and read_lines read them
exclusive                       hold a lock file
in_threads                      do the same with many small files at a time
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

THREADS = 8  # of `in_threads`

Item = TypeVar("Item")
Result = TypeVar("Result")


def now() -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def age_of(moment: str) -> float:
    """Seconds since a moment written by `now`."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def replace_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write `path` so that a reader sees the old text or the new one, never a part. `sync`: also after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        with temporary.open("x") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def replace_json(path: Path, value: Any, *, sync: bool = False) -> None:
    replace_text(path, json_text(value), sync=sync)


def json_text(value: Any) -> str:
    """JSON with one value a line, so that people can read it."""
    return json.dumps(value, indent=1) + "\n"


def read_json(path: Path) -> Any | None:
    """None if the file is not there. Raises ValueError, with the path, for a file that is not JSON."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.loads(file.read())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: damaged, not JSON ({error.msg} at character {error.pos})") from None


class Appender:
    """Appends JSON lines. First cuts off a last line that is incomplete because its writer died."""

    def __init__(self, path: Path) -> None:
        cut_torn_line(path)
        self._file = path.open("a")

    def append(self, value: Any, *, sync: bool = False) -> None:
        self._file.write(json.dumps(value, separators=(",", ":")) + "\n")
        self._file.flush()
        if sync:
            self.sync()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line: whatever follows the last newline."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def sound_lines(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[int]]:
    """The JSON objects of a file of lines with their line numbers, from 1, and the numbers of damaged lines.

    Text after the last newline is not counted as damage: it is being written, or its writer has died.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], []
    objects: list[tuple[int, dict[str, Any]]] = []
    damaged: list[int] = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            objects.append((number, value))
        else:
            damaged.append(number)
    return objects, damaged


def read_lines(path: Path) -> list[Any]:
    """The JSON objects of a file of lines. Raises ValueError for a damaged line."""
    objects, damaged = sound_lines(path)
    if damaged:
        raise ValueError(f"{path}, line {damaged[0]}: damaged, not JSON")
    return [value for _, value in objects]


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file; waits until it is free. The kernel frees it when its holder dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work(item)` of each item, in order. For small files: on a shared disk each costs a round trip.

    Raises the first error, also Ctrl-C, once the items that have begun have ended.
    """
    pool = ThreadPoolExecutor(THREADS)
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
