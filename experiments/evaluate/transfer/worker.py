"""A run's transfer recorded, and what became of it: for a process that takes one run after the other.

What is printed meanwhile, and the traceback of an error that is not the user's, goes to the end of `RUN/transfer/<job>.log`.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from experiments.evaluate.transfer.run import run_recorded
from experiments.evaluate.transfer.spec import Job, log_file
from experiments.run.worker import one_line
from experiments.store.files import now
from experiments.store.run import Busy


def report(run: Path, job: Job) -> dict[str, Any]:
    """What became of one run; never raises for a trouble that is the run's own."""
    log = log_file(run, job)
    try:
        return {"run": str(run), "values": run_recorded(run, job, partial(_say, log))}
    except (ValueError, Busy) as error:
        return {"run": str(run), "error": str(error)}
    except Exception as error:
        _say(log, traceback.format_exc().rstrip())
        return {"run": str(run), "error": f"{one_line(error)}; log: {log}" if log.exists() else one_line(error)}


def _say(log: Path, line: str) -> None:
    """A log that cannot be written (a full disk) ends no training."""
    print(line, file=sys.stderr, flush=True)
    with suppress(OSError), log.open("a") as file:
        file.write(f"{now()} {line}\n")
