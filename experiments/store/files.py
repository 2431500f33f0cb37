"""Files that survive a crash at any instant and tell damage when they are read, and tools for many of them.

replace_text, replace_json      replace a file as a whole; read_json reads it; Damaged
Appender                        append JSON lines; sound_lines and read_lines read them
warn_once                       name something damaged that is left out
remove_abandoned                remove the temporary files of writers that were killed
exclusive                       hold a lock file
in_threads                      do the same with many small files at a time

A JSON object, and a line of JSON, ends with a field `crc32`: the checksum of the bytes before it, which finds the flipped bit
that makes another valid number. Readers check it and take it away; what was written before there was one is read unchecked.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shutil
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

THREADS = 8  # of `in_threads`
CHECKSUM = "crc32"  # the last field of what `replace_json` and `Appender` write
WHOLE_CHECKSUM = re.compile(rb',\n "crc32": "([0-9a-f]{8})"\n}\n*\Z')
NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENOTDIR)  # another thing, or a loop of links, where a file should be
LINE_CHECKSUM = re.compile(rb',"crc32":"([0-9a-f]{8})"}\r?\Z')

Item = TypeVar("Item")
Result = TypeVar("Result")


class Damaged(ValueError):
    """A file whose content is not what we wrote: `PATH: damaged, WHY`."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(f"{path}: damaged, {why}")


class Unreadable(Damaged):
    """A file that is there and that this process may not read."""

    def __init__(self, path: object, why: str) -> None:
        ValueError.__init__(self, f"{path}: cannot be read ({why})")


def now() -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def age_of(moment: str) -> float:
    """Seconds since a moment written by `now`; infinite for a text that is no moment (a damaged record)."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):  # TypeError: without a time zone
        return math.inf


def replace_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write `path` so that a reader sees the old text or the new one, never a part. `sync`: also after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        with temporary.open("x", encoding="utf-8", errors="surrogateescape") as file:
            with suppress(OSError):  # a disk without locks: its temporary files stay
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shows that the writer lives
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """After a power cut a file that was renamed in it has its new name. Does nothing where a folder cannot be flushed."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_json(path: Path, value: Any, *, sync: bool = False) -> None:
    replace_text(path, json_text(value), sync=sync)


def json_text(value: Any) -> str:
    """JSON with one value a line, so that people can read it; an object with its checksum."""
    text = json.dumps(value, indent=1)
    return with_checksum(text) if isinstance(value, dict) and value else text + "\n"


def with_checksum(text: str) -> str:
    """The JSON text of an object, made with `indent=1`, with its checksum as the last field."""
    body = text.rstrip().removesuffix("\n}")
    return f'{body},\n "{CHECKSUM}": "{checksum(body.encode())}"\n}}\n'


def checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


def read_json(path: Path) -> Any | None:
    """None if the file is not there. Raises ValueError, with the path and a remedy, for one that is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from None
    return parsed(content, path)


def parsed(content: bytes, path: Path) -> Any:
    """The JSON value of a file's content, without its checksum. Raises Damaged."""
    if wrong_checksum(content):
        raise Damaged(path, f'its content is not what its checksum says (edited by hand? then remove "{CHECKSUM}")')
    try:
        value = json.loads(content)
    except UnicodeDecodeError as error:
        raise Damaged(path, f"not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise Damaged(path, f"not JSON ({error.msg} at character {error.pos})") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 100,000 brackets
        raise Damaged(path, f"not JSON of ours ({type(error).__name__})") from None
    if isinstance(value, dict):
        value.pop(CHECKSUM, None)
    return value


def wrong_checksum(content: bytes) -> bool:
    """Whether the text of a JSON object ends with a checksum that is not its own."""
    found = WHOLE_CHECKSUM.search(content)
    return found is not None and found[1].decode() != checksum(content[: found.start()])


def unreadable(path: Path, error: OSError) -> Damaged:
    """The error of a file that is there and cannot be read: a folder or a loop of links in its place, no permission."""
    if error.errno in NO_FILE:
        return Damaged(path, f"not a file ({error.strerror}); remove it")
    return Unreadable(path, error.strerror or str(error))


def no_file(path: Path) -> bool:
    """Whether something else is there: a folder, or a link that leads nowhere."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return path.is_symlink()
    except OSError as error:
        return error.errno in NO_FILE


def move_aside(path: Path) -> Path:
    """Rename a damaged file, beside where it is; returns its new path. Nothing is deleted."""
    target = path.with_name(f"{path.name}.damaged-{now().replace(':', '')}")
    path.rename(target)
    warn_once(f"{path}: damaged, kept as {target.name}")
    return target


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """To standard error, once in this process. For something damaged that is left out while the rest is used."""
    if message in _warned:
        return
    _warned.add(message)
    with suppress(OSError, ValueError):  # closed
        print(f"warning: {message}", file=sys.stderr)


class Appender:
    """Appends JSON lines. First cuts off a last line that is incomplete because its writer died."""

    def __init__(self, path: Path) -> None:
        cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def append(self, value: Any, *, sync: bool = False) -> None:
        self._file.write(line_of(value))
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


def line_of(value: Any) -> str:
    """One line of JSON with its checksum, if it is an object."""
    text = json.dumps(value, separators=(",", ":"))
    if not isinstance(value, dict) or not value:
        return text + "\n"
    body = text[:-1]
    return f'{body},"{CHECKSUM}":"{checksum(body.encode())}"}}\n'


def cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line: whatever follows the last newline. What is no file is moved out of the way."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in NO_FILE:
            move_aside(path)
            return
        raise
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def sound_lines(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[int]]:
    """The JSON objects of a file of lines with their line numbers, from 1, and the numbers of damaged lines.

    Text after the last newline is not counted as damage: it is being written, or its writer has died. A folder or a loop of
    links in place of the file is damage of line 1. Raises OSError.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        if error.errno in NO_FILE:
            return [], [1]
        raise
    objects: list[tuple[int, dict[str, Any]]] = []
    damaged: list[int] = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].split(b"\n")[:-1], start=1):
        value = parse_line(line)
        if value is not None:
            objects.append((number, value))
        else:
            damaged.append(number)
    return objects, damaged


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The object of a line, without its checksum; None for a damaged line."""
    if (found := LINE_CHECKSUM.search(line)) is not None and found[1].decode() != checksum(line[: found.start()]):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    value.pop(CHECKSUM, None)
    return value


def read_lines(path: Path) -> list[Any]:
    """The JSON objects of a file of lines. A damaged line is left out and named on standard error."""
    objects, damaged = sound_lines(path)
    if damaged:
        warn_once(f"{path}, {lines_in_words(damaged)}: damaged, left out; the other lines are used")
    return [value for _, value in objects]


def lines_in_words(numbers: list[int]) -> str:
    """`line 3`, `lines 3, 4`, `lines 3, 4, 5 and 7 more`."""
    shown = ", ".join(map(str, numbers[:3]))
    more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{more}"


TEMPORARY = re.compile(
    r"\..+\.([0-9a-f]{12}|\d+)"
)  # names that `replace_text`, `RunDirectory.create`, `moco.checkpoint` give
ABANDONED_SECONDS = 600.0  # a temporary folder is filled in less


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files whose writers were killed: a living one holds a lock. Does nothing on a read-only disk."""
    try:
        found = [entry for entry in os.scandir(folder) if TEMPORARY.fullmatch(entry.name)]
    except OSError:
        return
    for entry in found:
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                if time.time() - entry.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(entry.path)
                continue
            with open(entry.path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file; waits until it is free. The kernel frees it when its holder dies."""
    if no_file(path):  # a loop of links
        move_aside(path)
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
