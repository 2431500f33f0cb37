"""Jobs are submitted once: by one command at a time, after it has written down what it is about to submit.

Two commands that look at the same runs would both find them missing. So looking and submitting are one, under a lock that
sbatch holds, too: while it works for a command that was killed, the next one waits. A command that is killed between sbatch
and its notes leaves `intent.json` in the folder of its submission; the next one asks the cluster which of those jobs there
are, and notes them (`settle`). Where the cluster does not answer, those runs are left alone.

    one_command     the lock
    intend          write the intent; remove it with `done`
    settle          what earlier commands had begun
    unknown         runs whose job may still be there, for all that can be told
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.launch.submissions import record
from experiments.run.cluster import Submission, array_of, cluster_named, this_user
from experiments.state.state import QUEUE, UNKNOWN, Queue
from experiments.store import schema
from experiments.store.files import age_of, now, read_json, replace_json
from experiments.store.run import Busy, RunDirectory
from experiments.store.states import AT_REST, handling, host

LOCK = ".submitting"  # in the runs root
INTENT = "intent.json"  # in the folder of a submission
ELSEWHERE_SECONDS = 60.0  # that a command of another machine may take, where locks do not reach across machines


class Ended(BaseException):
    """SIGTERM or SIGHUP: what was submitted is taken back, as after Ctrl-C."""


@contextmanager
def one_command(root: Path) -> Iterator[None]:
    """Hold the lock over looking and submitting; says so where it has to wait for another command."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another command submits runs of {root}; waiting for it ...", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        os.set_inheritable(file.fileno(), True)
        yield


@contextmanager
def ending_in_order() -> Iterator[None]:
    """A signal that would end this process at once raises Ended while the block runs."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(signal.Signals(number).name)

    main = threading.current_thread() is threading.main_thread()
    with handling((signal.SIGTERM, signal.SIGHUP), end) if main else nullcontext():
        yield


def intend(root: Path, submission: Submission, label: str, elements: Mapping[str, Sequence[str]], **facts: Any) -> Path:
    """Write what is about to be submitted. `elements`: path of an element -> its runs. `facts`: of `submissions.record`."""
    submission.folder.mkdir(parents=True, exist_ok=True)
    file = submission.folder / INTENT
    by = {"time": now(), "host": host(), "pid": os.getpid(), "owner": this_user()}
    replace_json(
        file, {**by, "label": label, "elements": {k: list(v) for k, v in elements.items()}, **facts}, sync=True
    )
    return file


def settle(root: Path) -> dict[str, str]:
    """Note the jobs of commands that were killed while they submitted.

    Returns run id -> why nothing can be told of its job.
    """
    unsettled: dict[str, str] = {}
    for file in sorted((root / schema.SLURM_FOLDER).glob(f"*/{INTENT}")):
        try:
            intent = read_json(file)
            if intent is not None:
                unsettled |= _settle(root, file, intent)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{file}: damaged; it says what a command was submitting when it was killed. Look for its jobs in the queue, "
                "cancel them, and remove the file"
            ) from None
    return unsettled


def _settle(root: Path, file: Path, intent: Mapping[str, Any]) -> dict[str, str]:
    runs = [run_id for ids in intent["elements"].values() for run_id in ids]
    jobs = _jobs(file.parent, intent)
    if jobs is None:
        why = (
            f"process {intent['pid']} on {intent['host']} was submitting it, and whether its job is there is not known; "
            f"if it is not in the queue of {intent['owner']}, remove {file}"
        )
        return dict.fromkeys(runs, why)
    found = {run_id: jobs[path] for path, ids in intent["elements"].items() if path in jobs for run_id in ids}
    for run_id, job in found.items():
        note_job(root / run_id, schema.Status(job=job, cluster=intent["cluster"], owner=intent["owner"]))
    if found:
        facts = {name: intent[name] for name in ("profile", "cluster", "code", "command", "planned")}
        record(root, intent["label"], **facts, jobs=found)
        arrays = ", ".join(dict.fromkeys(array_of(job) for job in found.values()))
        print(f"found job {arrays}, submitted by a command that was killed before it could write that down", flush=True)
    file.unlink()
    return {}


def _jobs(folder: Path, intent: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Path of an element -> its job; None where that cannot be told."""
    if intent["host"] != host() and age_of(intent["time"]) < ELSEWHERE_SECONDS:
        return None
    try:
        cluster = cluster_named(intent["cluster"])
    except ValueError:
        return None
    return cluster.sent(folder)


def note_job(path: Path, job: schema.Status) -> None:
    """Record the job of a run, unless its worker has begun, which records the job itself."""
    run = RunDirectory(path)
    with suppress(Busy, FileNotFoundError), run.locked():
        status = run.status() or schema.Status()
        if status.get("state") == schema.QUEUED:
            run.write_status({**status, **job})


def unknown(root: Path, run_ids: Iterable[str], queue: Queue = QUEUE) -> dict[str, str]:
    """Run id -> why it is not known whether its last job is still there, for those of which it is not known."""
    found: dict[str, str] = {}
    for run_id in run_ids:
        try:
            status = RunDirectory(root / run_id).status() or schema.Status()
        except ValueError:
            continue
        job, cluster, owner = status.get("job"), status.get("cluster"), status.get("owner")
        if job and status.get("state") not in AT_REST and queue.phase(job, cluster, owner).phase == UNKNOWN:
            of = f" of {owner}" if owner and owner != this_user() else ""
            found[run_id] = f"{cluster or 'its cluster'} says nothing about job {job}{of}"
    return found
