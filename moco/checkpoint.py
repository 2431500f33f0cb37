"""Files of weights: there whole or not at all, with a digest of their content, and of data only: nothing in them is executed.

The digest, SHA-256 of what torch wrote, stands in the comment that ends every zip archive, so that torch and every other
reader of zip read the file as before. `load` verifies it before anything of the file is used. A file without one, of an
older version or of somebody else, is read unchecked; of our own files that is said.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO
from uuid import uuid4

import torch

NO_CHECKPOINT = "not a file that torch wrote, or a damaged one"
LOGGER = logging.getLogger("moco")

# The end of a zip archive: 4 bytes of signature, 16 of counts and places, 2 with the length of the comment, the comment.
SIGNATURE, END_BYTES = b"PK\x05\x06", 22
MARK = b"moco sha256 "
COMMENT_BYTES = len(MARK) + 64
OWN_FILES = ({"run_id", "step", "model"}, {"encoder", "config"})  # keys of checkpoint.pt and of encoder.pt


class Damaged(ValueError):
    """A file of weights whose content is not what was written, or that torch cannot read."""


def save(state: dict[str, Any], path: Path, *, previous: Path | None = None) -> None:
    """Write beside, flush to the disk, rename: a reader sees the old file or the new one, after a power cut too.

    `previous`: where the file that is replaced is kept. Temporary files of writers that were killed are removed.
    """
    remove_abandoned(path)
    partial = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        with partial.open("xb") as file:
            with suppress(OSError):  # a disk without locks
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shows that the writer lives
            _write(state, file)
            file.flush()
            os.fsync(file.fileno())
            if previous is not None:
                with suppress(FileNotFoundError):
                    path.replace(previous)
            partial.replace(path)
    except OSError as error:  # a full disk, a read-only one: with the name that the user knows
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` whose writers were killed; a living one holds a lock."""
    mine = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{12}}|\d+)")
    with suppress(OSError):
        for name in os.listdir(path.parent):
            if mine.fullmatch(name):
                with suppress(OSError), (path.parent / name).open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    (path.parent / name).unlink()


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # a disk that cannot flush a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Hashing:
    """A file that is written from its beginning to its end, and the digest of what was written.

    The last two bytes, the length of the comment, are held back until `finish`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.held = file, hashlib.sha256(), b""
        self.error: OSError | None = None  # torch reports its own instead: "enforce fail at inline_container"

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        self.digest.update(view)
        try:
            if len(view) >= 2:
                self.file.write(self.held)
                self.file.write(view[:-2])
                self.held = bytes(view[-2:])
            else:
                whole = self.held + bytes(view)
                self.file.write(whole[:-2])
                self.held = whole[-2:]
        except OSError as error:
            self.error = error
            raise
        return len(view)

    def flush(self) -> None:
        self.file.flush()

    def finish(self) -> None:
        if self.held != b"\0\0":
            raise RuntimeError("torch ended a file otherwise than a zip archive ends; its digest has no place")
        comment = MARK + self.digest.hexdigest().encode()
        self.file.write(len(comment).to_bytes(2, "little") + comment)


def _write(state: dict[str, Any], file: IO[bytes]) -> None:
    hashing = _Hashing(file)
    try:
        torch.save(state, hashing)  # type: ignore[arg-type]  # torch asks for `write` and `flush` only
    except RuntimeError:
        if hashing.error is not None:
            raise hashing.error from None
        raise
    hashing.finish()


def load(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Raises Damaged, a ValueError with the path, for a damaged file or one that holds more than tensors and plain values."""
    try:
        with path.open("rb") as file:
            checked = _verify(file, path)
            file.seek(0)
            state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such checkpoint") from None
    except Damaged:
        raise
    except Exception as error:  # KeyError, IndexError, struct.error...: bytes of any kind drive torch's unpickler
        raise Damaged(f"{path}: not a readable checkpoint ({_reason(error)})") from error
    if not isinstance(state, dict):
        raise Damaged(f"{path}: not a checkpoint: it holds a {type(state).__name__}, a dict of tensors is expected")
    if not checked and any(keys <= state.keys() for keys in OWN_FILES):
        LOGGER.warning("%s: written before files had a digest: whether it is damaged could not be checked", path)
    return state


def load_newest(paths: tuple[Path, ...], use: Callable[[dict[str, Any]], None], device: str | torch.device) -> bool:
    """`use` the first of these checkpoints, the newest first, that is sound; a damaged one is passed over with a warning.

    Returns False if none is left. Raises what `use` raises for a sound file.
    """
    for place, path in enumerate(paths):
        if not os.path.lexists(path):
            continue
        try:
            state = load(path, device)
            _use(use, state, path)
        except Damaged as error:
            left = [other for other in paths[place + 1 :] if os.path.lexists(other)]
            going_on = f"going on from {left[0].name}" if left else "no checkpoint is left"
            LOGGER.warning("%s; %s", error, going_on)
            continue
        return True
    return False


def _use(use: Callable[[dict[str, Any]], None], state: dict[str, Any], path: Path) -> None:
    """Raises Damaged where something is missing in the state or has another form: a file without a digest may be anything."""
    try:
        use(state)
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "loading state_dict" not in str(error):
            raise
        raise Damaged(f"{path}: damaged, it is not the state of this model ({type(error).__name__})") from error


def _verify(file: BinaryIO, path: Path) -> bool:
    """Whether the file has a digest; raises Damaged if it is not that of the content."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - END_BYTES - COMMENT_BYTES))
    tail = file.read()
    comment = tail[-COMMENT_BYTES:]
    length = COMMENT_BYTES.to_bytes(2, "little")
    if not comment.startswith(MARK):
        # Of a file that was cut off, or whose mark itself is hit, the end still says how long the comment was.
        found = tail.rfind(SIGNATURE)
        if found >= 0 and tail[found + END_BYTES - 2 : found + END_BYTES] == length:
            raise _damaged(path)
        return False
    if tail[: len(SIGNATURE)] != SIGNATURE or tail[END_BYTES - 2 : END_BYTES] != length:
        raise _damaged(path)
    digest, left = hashlib.sha256(), size - COMMENT_BYTES - 2
    file.seek(0)
    while left:
        piece = file.read(min(left, 1 << 20))
        if not piece:
            raise _damaged(path)
        digest.update(piece)
        left -= len(piece)
    digest.update(b"\0\0")
    if comment[len(MARK) :] != digest.hexdigest().encode():
        raise _damaged(path)
    return True


def _damaged(path: Path) -> Damaged:
    return Damaged(f"{path}: damaged, its content is not what its digest says")


def _reason(error: Exception) -> str:
    """torch's own words for a file that is not plain data are advice on how to execute it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not isinstance(error, (pickle.UnpicklingError, RuntimeError, EOFError, OSError)):
        return NO_CHECKPOINT
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {found[1]}, which is code or an object of a library; nothing in a file is executed"
    if text.startswith("Weights only load failed") or "weights_only" in text:
        return NO_CHECKPOINT
    return text.splitlines()[0].partition(". ")[0] if text else type(error).__name__  # advice follows
