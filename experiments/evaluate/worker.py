"""`report`: evaluate one finished run and return its readouts or its error. Used by the pool and by jobs of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.evaluate.add import evaluate_run
from experiments.run.worker import one_line
from experiments.store import schema
from experiments.store.run import Busy


def report(
    path: Path, protocols: Sequence[str], device: str | None = None, moved_to: Path | None = None, *, wait: bool = False
) -> dict[str, Any]:
    """The run with its new readouts (`values`), or with what went wrong (`error`): one bad run must not end a sweep.

    `wait`: for another process that evaluates the run, instead of an error.
    """
    try:
        return {"run": str(path), "values": evaluate_run(path, protocols, device, moved_to, wait=wait)}
    except (ValueError, Busy) as error:
        return {"run": str(path), "error": str(error)}
    except Exception as error:  # its traceback is in the run's log
        return {"run": str(path), "error": f"{one_line(error)}; log: {path / schema.LOG}"}
