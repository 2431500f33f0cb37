"""One run after the other, in a process that has loaded torch and the images once.

    python -m experiments.evaluation.worker [--device NAME] PROTOCOL...

Down comes a run directory a line; up goes a JSON line for each: {"run", "values"} or {"run", "error"}. It ends with its
input: whoever gave the work may be killed, and the run that is being judged is still brought to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
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


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.evaluation.worker", allow_abbrev=False)
    parser.add_argument("--device")
    parser.add_argument("protocols", nargs="+")
    options = parser.parse_args(arguments)
    up = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        said = report(Path(line.rstrip("\n")), options.protocols, options.device)
        print(json.dumps(said), file=up, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
