"""What Slurm starts on a node: `python -m slurm.element FILE`, one element of an array, or a job of its own.

`--after CODE` is the second call, in the job's script, when the work has ended with that code: a process that was killed,
or that could not begin, has not recorded its end.

FILE was written before the job was submitted and is complete: the function, by its name, and the path that each element
works on. So a job needs nothing that its submitter had yet to write when it was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

from slurm.step import element_here


def main(file: str, code: int | None = None) -> None:
    """Call the function with the path of this element; an error ends the job as failed. `code`: with which it has ended."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # warns of the time limit; its default would end the process
    sent = json.loads(Path(file).read_text(encoding="utf-8"))
    path = sent["paths"][element_here(os.environ)]
    if code is not None:
        import_module(sent["afterwards"]).main(path, code)
        return
    module, _, name = sent["work"].partition(":")
    getattr(import_module(module), name)(path)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[3]) if sys.argv[2:3] == ["--after"] else None)
