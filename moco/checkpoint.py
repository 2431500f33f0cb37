"""Files that are there whole or not at all, and that hold data only: nothing in them is executed when they are read."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch

NO_CHECKPOINT = "not a file that torch wrote, or a damaged one"


def save(state: dict[str, Any], path: Path) -> None:
    """Write beside, flush to the disk, rename: a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Raises ValueError, with the path, for a damaged file or one that holds more than tensors and plain values."""
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such checkpoint") from None
    except Exception as error:  # KeyError, IndexError, struct.error...: bytes of any kind drive torch's unpickler
        raise ValueError(f"{path}: not a readable checkpoint ({_reason(error)})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: not a checkpoint: it holds a {type(state).__name__}, a dict of tensors is expected")
    return state


def _reason(error: Exception) -> str:
    """torch's own words for a file that is not plain data are advice on how to execute it."""
    if not isinstance(error, (pickle.UnpicklingError, RuntimeError, EOFError, OSError)):
        return NO_CHECKPOINT
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {found[1]}, which is code or an object of a library; nothing in a file is executed"
    if text.startswith("Weights only load failed"):
        return NO_CHECKPOINT
    return text.splitlines()[0] if text else type(error).__name__
