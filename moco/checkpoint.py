"""Files that are there whole or not at all, and that hold data only: nothing in them is executed when they are read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch


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
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: not a checkpoint: it holds a {type(state).__name__}, a dict of tensors is expected")
    return state
