"""The last word about a run whose process could not say it: killed for memory, or never begun for want of a python.

Called on the node by the job's own script, while Slurm and the log still know what happened; half an hour later Slurm has
forgotten it. Writes only where no process holds the run and where its status still says that it waits or runs.
"""

from __future__ import annotations

import shutil
import signal
from contextlib import suppress
from pathlib import Path

from experiments.launch.job import MANY_DEATHS, died_in_vain
from experiments.launch.pack import PACKS
from experiments.run import provenance
from experiments.run.cluster import this_cluster
from experiments.store import causes, schema
from experiments.store.files import json_text, now
from experiments.store.run import Busy, RunDirectory
from experiments.store.states import host

TAIL_BYTES = 65536  # of a log
NO_ROOM = 65536  # bytes on the disk with which no run can go on
ROUND = 128  # an exit code above it is that of a signal, as shells say it


def main(path: str, code: int) -> None:
    """Record the end of the runs of an element whose work has ended with `code`, where they have not done so themselves."""
    if (Path(path) / schema.CONFIG).exists():
        paths = [Path(path)]
    elif Path(path).parent.name == PACKS:
        paths = [Path(line) for line in Path(path).read_text().splitlines()]
    else:  # readouts, a search: what they have done is recorded as they do it
        return
    for one in paths:
        record_end(RunDirectory(one), code, _tail(one.parent))


def _tail(root: Path) -> str:
    """The end of the job's log."""
    job = provenance.job()
    log = this_cluster().log(root / schema.SLURM_FOLDER, job) if job else None
    if log is None:
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def record_end(run: RunDirectory, code: int, log: str) -> None:
    """Write it into the run's status and attempts, in one line that says what happened."""
    with suppress(Busy), run.locked():
        status, attempts = run.status() or schema.Status(), run.attempts()
        if status.get("state") not in (schema.QUEUED, schema.RUNNING) or run.results() is not None:
            return
        reason, cause = what_happened(code, log, shutil.disk_usage(run.path).free)
        state = schema.LOST
        if attempts and attempts[-1]["event"] == "start":
            number = attempts[-1]["attempt"]
            end = schema.Attempt(event="end", attempt=number, time=now(), state=state, reason=reason, cause=cause)
            end["step"] = status.get("step", 0)
            if (lived := run.lived(number)) is not None:
                end["seconds"] = round(lived, 3)
            with suppress(OSError):  # a full disk; the next attempt then records the end of this one
                run.append_attempt(end)
            if (step := died_in_vain(run)) is not None:
                state, cause = schema.FAILED, causes.STUCK
                reason = f"died {MANY_DEATHS} times at step {step}, the last time: {reason}; --retry tries it once more"
        _write(run, {**status, "state": state, "reason": reason, "cause": cause})


def _write(run: RunDirectory, status: schema.Status) -> None:
    """On a full disk there is no room for a new file beside the old one: then over the old one, which has its room."""
    try:
        run.write_status(status)
    except OSError:
        with (run.path / schema.STATUS).open("r+b") as file:
            file.write(json_text(status).encode())
            file.truncate()


def what_happened(code: int, log: str, free: int) -> tuple[str, str]:
    """(reason, cause) of an end, by the exit code of the job's step, the end of its log, and what is free on its disk.

    On a full disk the log cannot say so.
    """
    how = f"killed by {signal.Signals(code - ROUND).name}" if _is_signal(code - ROUND) else f"exit code {code}"
    cause = causes.named(log)
    if cause is None and free < NO_ROOM:
        return f"no room on the disk of the runs: {free} bytes are free ({how} on {host()})", causes.DISK_FULL
    if cause is None:
        return f"ended without a word on {host()}: {how}", causes.KILLED
    return f"{causes.line_of(cause, log)} ({how} on {host()})", cause


def _is_signal(number: int) -> bool:
    return number in {one.value for one in signal.Signals}
