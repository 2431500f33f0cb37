"""Is everything there that runs need? One line for each question: ok, or the problem and its remedy."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from experiments import checkup, schema
from experiments.durable import replace_text
from experiments.estimate import bytes_in_words, disk_free
from experiments.manifest import all_manifests
from experiments.run_directory import RunDirectory
from slurm.control import accounting
from slurm.launch import check_programs, queue_states, start_estimate
from slurm.profiles import Profile

LITTLE_DISK = 10**9  # bytes
LOOK_AT = 1000  # run directories
SKEW_SECONDS = 10.0  # between two clocks; heartbeats are stale after schema.STALE_SECONDS
HTTP_SECONDS = 5.0
OK, PROBLEM, UNKNOWN = "ok", "problem", "unknown"


@dataclass(frozen=True)
class Finding:
    """`essential`: without it runs cannot be trusted to end well."""

    what: str
    verdict: str
    words: str
    remedy: str = ""
    essential: bool = True

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy and self.verdict != OK else ""
        return f"{self.verdict:<8} {self.what}: {self.words}{remedy}"


def examine(root: Path, profile: Profile | None, patience: float, tell: Callable[[Finding], None]) -> bool:
    """Tell each finding as soon as it is known; returns whether everything essential is there."""
    well = True
    for finding in _all(root, profile, patience):
        tell(finding)
        well &= finding.verdict != PROBLEM or not finding.essential
    return well


def _all(root: Path, profile: Profile | None, patience: float) -> Iterator[Finding]:
    yield store(root)
    yield disk(root)
    yield mlflow(root, profile)
    if profile is not None:
        yield from cluster(root, profile, patience)


def store(root: Path) -> Finding:
    """Written, locked and read as runs do it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        _try_files(root)
        sweeps = len(all_manifests(root))
        runs = sum(_try_run(path.parent) for path in islice(root.glob(f"*/{schema.CONFIG}"), LOOK_AT))
    except OSError as error:
        remedy = "set MOCO_RUNS to a folder that can be written"
        return Finding("store", PROBLEM, f"{error.filename or root}: {error.strerror}", remedy)
    except ValueError as error:
        return Finding(
            "store", PROBLEM, str(error), "move that file or run directory away, the next launch makes it anew"
        )
    return Finding("store", OK, f"{root} can be written and locked; {sweeps} sweeps, {runs} runs looked at")


def _try_files(root: Path) -> None:
    probe = root / f".doctor-{os.getpid()}"
    try:
        replace_text(probe, "a", sync=True)
        replace_text(probe, "b", sync=True)
        with probe.open() as one, probe.open() as other:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            raise ValueError(f"{root}: two processes get one lock, so a run could be trained twice at a time")
    finally:
        probe.unlink(missing_ok=True)


def _try_run(path: Path) -> bool:
    run = RunDirectory(path)
    run.status(), run.results(), run.attempts()
    return True


def disk(root: Path) -> Finding:
    free = disk_free(root)
    verdict = OK if free > LITTLE_DISK else PROBLEM
    return Finding(
        "disk", verdict, f"{bytes_in_words(free)} free", "free some, or set MOCO_RUNS elsewhere", essential=False
    )


def mlflow(root: Path, profile: Profile | None) -> Finding:
    """Not essential: what it misses is brought over by the next sync."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or (profile.tracking if profile else None)
    if profile is not None and profile.tracking_mode == "off":
        return Finding("MLflow", OK, f"off in profile {profile.name}")
    if uri and uri.startswith("http"):
        return _server(uri)
    database = root / schema.MLFLOW_DATABASE
    if not database.exists():
        return Finding("MLflow", OK, f"{uri or 'embedded, made by the first sweep'}")
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            (said,) = connection.execute("pragma quick_check(1)").fetchone()
    except sqlite3.Error as error:
        said = str(error)
    remedy = "move it away, python -m experiments sync builds it again from the runs"
    return Finding("MLflow", OK if said == "ok" else PROBLEM, f"{database}: {said}", remedy, essential=False)


def _server(uri: str) -> Finding:
    remedy = "runs go on without it; start it or set MLFLOW_TRACKING_URI, then python -m experiments sync"
    shown = uri.rpartition("@")[2]  # without a password
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=HTTP_SECONDS) as answer:
            words = f"{shown} answers"
            assert answer.status == 200
            return Finding("MLflow", OK, words)
    except (OSError, ValueError) as error:  # a refusal, a wrong address, an HTTP error
        return Finding("MLflow", PROBLEM, f"{shown}: {error}", remedy, essential=False)


def cluster(root: Path, profile: Profile, patience: float) -> Iterator[Finding]:
    try:
        check_programs()
        if queue_states() is None:
            yield Finding("squeue", PROBLEM, "no answer", "is the controller up, SLURM_CONF right? scontrol ping tells")
            return
        yield Finding("squeue", OK, "answers")
        yield Finding("sbatch", OK, start_estimate(profile))
    except ValueError as error:
        yield Finding("sbatch", PROBLEM, str(error), f"correct the profile {profile.name}")
        return
    reason = accounting()
    yield Finding("sacct", OK, "accounting is there" if reason is None else f"{reason}; nothing here needs it")
    yield from _job(checkup.Checkup(root, profile), patience)


def _job(job: checkup.Checkup, patience: float) -> Iterator[Finding]:
    try:
        with job.submitted():
            if not job.begun(patience):
                words = (
                    f"job {job.job} still waits after {patience:.0f} s; nodes, signal, requeue and clocks not looked at"
                )
                yield Finding("nodes", UNKNOWN, words, "--patience SECONDS waits longer")
                return
            yield from _node(job)
    except ValueError as error:  # Slurm's refusal
        yield Finding("job", PROBLEM, str(error))


def _node(job: checkup.Checkup) -> Iterator[Finding]:
    asked = time.time()
    pong = job.ask(checkup.PING, patience=60.0)
    if pong is None:
        yield _unseen(job)
        return
    heard = time.time()
    yield Finding("shared disk", OK, f"{pong['host']} sees {job.root}, and we see what it writes")
    copied = OK if pong["code"] else PROBLEM
    remedy = "is an environment or .pth file of the site put before PYTHONPATH?"
    yield Finding(
        "code", copied, f"Python {pong['python']}, {'the' if pong['code'] else 'not the'} copied code", remedy
    )
    if job.profile.gpus_per_node:
        yield _gpus(pong["gpus"], job.profile.gpus_per_node)
    yield _clocks(pong["time"], asked, heard, checkup.files_clock(job.folder))
    signalled = job.send_signal() is not None
    remedy = "runs would not save before the time limit; is a wrapper in `setup` catching SIGUSR2?"
    yield Finding("signal", OK if signalled else PROBLEM, "SIGUSR2 is delivered" if signalled else "no SIGUSR2", remedy)
    yield _requeue(job, pong["scontrol"])


def _unseen(job: checkup.Checkup) -> Finding:
    said, state = job.said(), job.state()
    words = (
        f"job {job.job} ended ({state}), it said: {said}" if said else f"job {job.job} ended ({state}) without a log"
    )
    remedy = (
        f"can the nodes see {job.root} and this Python? Set MOCO_RUNS, or runs_root in the profile, to a shared folder"
    )
    return Finding("shared disk", PROBLEM, words, remedy)


def _gpus(visible: str | None, wanted: int) -> Finding:
    count = len([gpu for gpu in (visible or "").split(",") if gpu.strip()])
    words = f"{count} visible, {wanted} asked for"
    return Finding("GPU", OK if count == wanted else PROBLEM, words, "look at gpus, gres and constraint of the profile")


def _clocks(there: float, asked: float, heard: float, disk_ahead: float) -> Finding:
    """The node looked at its clock between `asked` and `heard`; what is more than that is skew."""
    node = max(asked - there, there - heard, 0.0)
    skew = max(node, abs(disk_ahead))
    words = f"node within {node:.1f} s of this machine, disk {disk_ahead:+.1f} s"
    remedy = f"heartbeats count as stale after {schema.STALE_SECONDS:.0f} s; ask for NTP on all machines"
    return Finding("clocks", OK if skew < SKEW_SECONDS else PROBLEM, words, remedy)


def _requeue(job: checkup.Checkup, scontrol: bool) -> Finding:
    remedy = "runs stop at their time limit and wait for the sweep's command, which goes on from their checkpoints"
    if not scontrol:
        return Finding("requeue", PROBLEM, "no scontrol on the node", remedy, essential=False)
    answer = job.ask(checkup.REQUEUE)
    if answer is None:
        answer = {"refused": None if job.back_in_the_queue() else "no answer"}
    if answer["refused"] is None and job.back_in_the_queue():
        return Finding("requeue", OK, "a job may put itself back into the queue")
    return Finding("requeue", PROBLEM, answer["refused"] or "the job did not come back", remedy, essential=False)
