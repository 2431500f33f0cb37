"""A folder's images known by their contents: every file is hashed once, then only those that have changed.

What was hashed is remembered in $XDG_CACHE_HOME/moco (by default ~/.cache/moco), outside the data, by inode, size and both
times of a file. The time of the last change of the inode is among them because no program can set it: a file that was
rewritten with its old size and time is hashed again.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import struct
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

DIGITS = 32
THREADS = 8  # that hash: files on a shared disk answer late, and hashing lets go of the interpreter
CHUNK = 1024  # files between two looks at the clock
PROGRESS_SECONDS = 10.0
SETTLED_NS = (
    2 * 10**9
)  # a file changed twice within a tick of the disk's clock may look the same; hashed again if so young
HEADER = b"moco contents 1\n"
ENTRY = struct.Struct("<QQqq16s")  # inode, size, time of the contents, time of the inode; 16 bytes of the sha256
GONE, CLOSED = b"nothing there".ljust(16), b"cannot be read".ljust(16)  # decoding will report such a file by name

NO_CACHE = Path(os.devnull) / "no home directory"

Key = tuple[int, int, int, int]


@dataclass(frozen=True)
class Contents:
    """`fingerprint`: 32 hexadecimal digits over names and contents.

    `changed_ns`: when any of the files, or a link on the way to one, was last written, renamed or replaced; nanoseconds since
    1970 by the disk's clock.
    """

    fingerprint: str
    changed_ns: int


def contents_of(root: Path, files: Sequence[str], links: Sequence[str] = ()) -> Contents:
    """Of files relative to `root`, in their order. A file that is not there or cannot be read counts as such, by its name.

    `links`: to folders, relative to `root`; they count for `changed_ns` only.
    """
    cache = cache_folder() / f"contents-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}"
    began = time.time_ns()
    paths = [f"{root}/{file}" for file in files]
    keys = [_key(path) for path in paths]
    times = [moment for key, link in keys for moment in (key[3] if key else 0, link)]
    times += [os.lstat(path).st_ctime_ns for path in (root, *(root / link for link in links)) if path.is_symlink()]
    known = _read(cache)
    if all(key is None or key in known for key, _ in keys):
        digests = [known[key] if key else GONE for key, _ in keys]
    else:
        with _one_at_a_time(cache):
            digests = _remembering(root, paths, [key for key, _ in keys], cache, began)
    whole = hashlib.sha256()
    for file, digest in zip(files, digests, strict=True):
        whole.update(os.fsencode(file) + b"\0" + digest)
    return Contents(whole.hexdigest()[:DIGITS], max(times, default=0))


def _remembering(root: Path, paths: Sequence[str], keys: Sequence[Key | None], cache: Path, began: int) -> list[bytes]:
    """The digest of each file. Files that the cache lacks are read, and added to it.

    `began`: nanoseconds since 1970, before the keys were taken.
    """
    known = _read(cache)  # again: another process may have filled it meanwhile
    missing = [position for position, key in enumerate(keys) if key is not None and key not in known]
    digests = [known.get(key, GONE) if key else GONE for key in keys]
    for position, digest in zip(missing, _hashed(root, [paths[p] for p in missing]), strict=True):
        digests[position] = digest
    fresh = {
        key: digests[position]
        for position in missing
        if (key := keys[position]) and began - key[3] > SETTLED_NS and digests[position] != CLOSED
    }
    if fresh:
        present = {key: known[key] for key in keys if key in known}
        # Copies on other machines under the same path keep their entries, as long as they are no more than these.
        others = {key: known[key] for key in known if key not in present} if len(known) <= 2 * len(keys) else {}
        _write(cache, {**others, **present, **fresh})
    return digests


@contextmanager
def _one_at_a_time(cache: Path) -> Iterator[None]:
    """Of the processes that would hash the same folder, as the ranks of a run, one does; the others find what it has kept.

    The kernel frees the lock of one that dies. Where nothing can be locked, each hashes for itself.
    """
    lock = cache.with_name(f".{cache.name}.lock")
    with ExitStack() as held:
        with suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(lock.open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
            held.callback(_removed, lock)
        yield


def _removed(lock: Path) -> None:
    with suppress(OSError):
        lock.unlink()


def cache_folder() -> Path:
    """Where what is known of data is kept between runs: $XDG_CACHE_HOME/moco, else ~/.cache/moco.

    A folder that cannot be made where there is no home: nothing is found in it, and that nothing is kept is said.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return cache.expanduser() / "moco"
    except RuntimeError:  # a user without a home, as in a container that was given a number for one
        return NO_CACHE


def _key(path: str) -> tuple[Key | None, int]:
    """What tells a file from any other and from itself before a change; and the time of the link, if it is one."""
    try:
        link = os.lstat(path)
        own = link if not _is_link(link) else os.stat(path)
    except OSError:
        return None, 0
    return (own.st_ino, own.st_size, own.st_mtime_ns, own.st_ctime_ns), link.st_ctime_ns


def _is_link(status: os.stat_result) -> bool:
    return status.st_mode & 0o170000 == 0o120000


def _hashed(root: Path, paths: list[str]) -> Iterator[bytes]:
    said = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), CHUNK):
            yield from pool.map(_digest, paths[start : start + CHUNK])
            if time.monotonic() - said > PROGRESS_SECONDS:
                said, done = time.monotonic(), min(start + CHUNK, len(paths))
                text = f"{root}: reading the contents of images, once: {done:,} of {len(paths):,}"
                logging.getLogger("moco").warning("%s", os.fsencode(text).decode("utf-8", "backslashreplace"))


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").digest()[:16]
    except OSError:
        return CLOSED


def _read(path: Path) -> dict[Key, bytes]:
    """Empty where there is none yet, or one that another version wrote or that was cut off."""
    try:
        content = path.read_bytes()
    except OSError:
        return {}
    if not content.startswith(HEADER) or (len(content) - len(HEADER)) % ENTRY.size:
        return {}
    return {entry[:4]: entry[4] for entry in ENTRY.iter_unpack(content[len(HEADER) :])}


def _write(path: Path, entries: dict[Key, bytes]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(HEADER + b"".join(ENTRY.pack(*key, digest) for key, digest in entries.items()))
        temporary.replace(path)  # whole or not at all: several processes may hash the same folder
    except OSError as reason:
        logging.getLogger("moco").warning("cannot remember the contents of images (%s); they are read again", reason)
