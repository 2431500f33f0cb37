"""A finished run judged, and what became of it: for processes that take one run after the other, here and in jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.evaluate.add import evaluate_run
from experiments.run.worker import one_line
from experiments.store import schema
from experiments.store.run import Busy


def report(path: Path, protocols: Sequence[str], device: str | None = None, *, wait: bool = False) -> dict[str, Any]:
    """What became of one run; never raises for a trouble that is the run's own. `wait` for who judges it already."""
    try:
        return {"run": str(path), "values": evaluate_run(path, protocols, device, wait=wait)}
    except (ValueError, Busy) as error:
        return {"run": str(path), "error": str(error)}
    except Exception as error:  # its traceback is in the run's log
        return {"run": str(path), "error": f"{one_line(error)}; log: {path / schema.LOG}"}
