"""One run after the other, in a process that has loaded torch and opened the data once.

    python -m experiments.transfer.worker JOB

Down comes a run directory a line; up goes a JSON line for each: {"run", "values"} or {"run", "error"}. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.transfer.job import Job
from experiments.transfer.one import run_recorded
from experiments.worker import one_line


def report(run: Path, job: Job) -> dict[str, Any]:
    """What became of one run; never raises for a trouble that is the run's own."""
    try:
        return {"run": str(run), "values": run_recorded(run, job, _say)}
    except ValueError as error:
        return {"run": str(run), "error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"run": str(run), "error": one_line(error)}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    job = Job.of_json(arguments[0])
    up = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        print(json.dumps(report(Path(line.rstrip("\n")), job)), file=up, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
