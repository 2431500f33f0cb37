"""`doctor`: checks whether everything that runs need is there. Each check is one line: ok, or the problem and its remedy.

    findings    all checks: the store, the disk, MLflow, and with --cluster the cluster and its nodes
    TestJob     a short job that shows what the nodes of a profile can do
    work        what that job does

The two sides talk by files, a question in one and its answer in another:

    ping.json, re-ping.json          whether each side sees the other's files; the node's clock
    lock.json, re-lock.json          whether the node sees that we hold a lock
    re-signal.json                   the job got the signal that announces its time limit
    requeue.json, re-requeue.json    the job asks to be requeued; the cluster's reply
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from experiments.launch.estimate import bytes_in_words, disk_free
from experiments.launch.grid import many, paragraph
from experiments.launch.options import LOCAL, Place, add_cluster_set, cluster_profile
from experiments.launch.snapshot import Snapshot
from experiments.plan.parser import AddVerb
from experiments.run import provenance
from experiments.run.cluster import (
    CLUSTER_VARIABLE,
    ENDED,
    WAITING,
    Cluster,
    Profile,
    Submission,
    cluster_named,
    new_folder,
    profile_names,
    this_cluster,
    this_job,
    this_user,
)
from experiments.run.stop import TIME_LIMIT_SIGNAL
from experiments.store import schema
from experiments.store.files import lines_in_words, read_json, replace_json, replace_text
from experiments.store.journal import read_journal
from experiments.store.manifests import all_manifests
from experiments.store.run import RunDirectory
from experiments.store.states import host

SECONDS = 10.0  # that the job waits for the next question
REQUEUE_SECONDS = 40.0  # until a job that asked for it is back in the queue, after its processes have ended
POLL_SECONDS = 0.1
LITTLE_DISK = 10**9  # bytes
MOST_RUNS = 1000  # run directories that are read
SKEW_SECONDS = 10.0  # between two clocks; heartbeats are stale after schema.STALE_SECONDS
HTTP_SECONDS = 5.0
OK, PROBLEM, UNKNOWN = "ok", "problem", "unknown"
PING, PONG, SIGNAL, REQUEUE = "ping.json", "pong.json", "signal.json", "requeue.json"
LOCK, LOCKED = "lock.json", "locked"


def work(path: str) -> None:
    """On the node: answer questions until none has come for `SECONDS`."""
    if (here := this_job()) is not None and here.process:  # of a job's several processes the first answers
        return
    folder, signals = Path(path), list[int]()
    signal.signal(TIME_LIMIT_SIGNAL, lambda number, frame: signals.append(number))
    answered: set[str] = set()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        answers = ((PING, _pong), (LOCK, lambda: {"held": is_held(folder / LOCKED)}), (REQUEUE, _requeue_answer))
        for question, answer in answers:
            if question not in answered and (folder / question).exists():
                answered.add(question)
                replace_json(folder / f"re-{question}", answer(), sync=True)
                deadline = time.monotonic() + SECONDS
        if signals and SIGNAL not in answered:
            answered.add(SIGNAL)
            replace_json(folder / f"re-{SIGNAL}", {"signal": signals[0]}, sync=True)
            deadline = time.monotonic() + SECONDS
        time.sleep(POLL_SECONDS)


def _pong() -> dict[str, Any]:
    return {
        "host": host(),
        "time": time.time(),
        "python": sys.version.split()[0],
        "code": provenance.SNAPSHOT in {path.name for path in Path(__file__).resolve().parents[2].iterdir()},
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def is_held(path: Path) -> bool:
    """Whether a process, perhaps of another machine, holds a lock on the file, as can be seen from here."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _requeue_answer() -> dict[str, Any]:
    job = provenance.job()
    return {"refused": "it is no job" if job is None else this_cluster().requeue(job)}


@dataclass
class TestJob:
    """The test job, from the login side. `job` is None until it is submitted."""

    root: Path
    profile: Profile
    job: str | None = None
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.cluster: Cluster = cluster_named(self.profile.cluster)
        self.folder = self.root / schema.SLURM_FOLDER / f"doctor-{os.getpid()}-{time.time_ns()}"

    @contextmanager
    def submitted(self) -> Iterator[None]:
        """Submit the job; cancel it and remove its files at the end. Raises Refused."""
        code = Snapshot.of_this_code()
        self.folder.mkdir(parents=True)
        try:
            short = replace(self.profile, time="5", signal_seconds=min(60, self.profile.signal_seconds))
            paths = {"PYTHONPATH": f"{code.write(self.root)}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
            submission = Submission(
                short,
                new_folder(self.folder),
                "doctor",
                environment={**paths, "PYTHONSAFEPATH": "1", CLUSTER_VARIABLE: self.cluster.recorded()},
                needs=(self.folder,),
            )
            (self.job,) = self.cluster.submit(submission, work, [self.folder])
            yield
        finally:
            if self.job:
                self.cluster.cancel([self.job])
            shutil.rmtree(self.folder, ignore_errors=True)

    def phase(self) -> tuple[str, str]:
        """The job's phase, and the cluster's own name of its state."""
        return (self.cluster.phases(this_user()) or {}).get(self.job or "", ("", "GONE"))

    def begun(self, patience: float) -> bool:
        """Wait until the job runs or has ended. False if it still waits after `patience` seconds."""
        return self._until(lambda: self.phase()[0] != WAITING, patience)

    def ask(self, question: str, patience: float = SECONDS) -> dict[str, Any] | None:
        """Ask the job a question; returns the answer, None if there is none in time."""
        replace_json(self.folder / question, {"time": time.time()}, sync=True)
        return self.answer(question, patience)

    def answer(self, question: str, patience: float = SECONDS) -> dict[str, Any] | None:
        found = self.folder / f"re-{question}"
        self._until(lambda: found.exists() or self.phase()[0] == ENDED, patience)
        answer: dict[str, Any] | None = read_json(found)
        return answer

    def ask_about_lock(self) -> dict[str, Any] | None:
        """Hold a lock, and ask the job whether it sees that."""
        with (self.folder / LOCKED).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return self.ask(LOCK)

    def send_signal(self) -> dict[str, Any] | None:
        self.cluster.signal(self.job or "", TIME_LIMIT_SIGNAL.name)
        return self.answer(SIGNAL)

    def back_in_the_queue(self) -> bool:
        return self._until(lambda: self.phase()[0] == WAITING, REQUEUE_SECONDS)

    def last_line(self) -> str | None:
        """The last line of the job's log."""
        log = self.cluster.log(self.folder, self.job or "")
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log else []
        return lines[-1] if lines else None

    def _until(self, condition: Callable[[], bool], patience: float) -> bool:
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True


def files_clock(folder: Path) -> float:
    """Seconds by which the clock of the disk is ahead of this machine's."""
    mark = folder / "clock"
    mark.touch()
    ahead = mark.stat().st_mtime - time.time()
    with suppress(OSError):
        mark.unlink()
    return ahead


@dataclass(frozen=True)
class Finding:
    """The result of one check. `essential`: runs cannot do without what it checks."""

    what: str
    verdict: str
    text: str
    remedy: str = ""
    essential: bool = True

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy and self.verdict != OK else ""
        return f"{self.verdict:<8} {self.what}: {self.text}{remedy}"


def examine(root: Path, profile: Profile | None, patience: float, show: Callable[[Finding], None]) -> bool:
    """Show each finding as soon as it is known. Returns whether everything essential is there."""
    all_well = True
    for finding in findings(root, profile, patience):
        show(finding)
        all_well &= finding.verdict != PROBLEM or not finding.essential
    return all_well


def findings(root: Path, profile: Profile | None, patience: float) -> Iterator[Finding]:
    yield store(root)
    yield disk(root)
    yield mlflow(root, profile)
    if profile is not None:
        yield from cluster(root, profile, patience)


def store(root: Path) -> Finding:
    """Whether the folder of runs can be written, locked and read, in the way that runs do."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        _try_files(root)
        sweeps = len(all_manifests(root))
        runs = sum(_try_run(path.parent) for path in islice(root.glob(f"*/{schema.CONFIG}"), MOST_RUNS))
    except OSError as error:
        remedy = "set MOCO_RUNS to a folder that can be written"
        return Finding("store", PROBLEM, f"{error.filename or root}: {error.strerror}", remedy)
    except ValueError as error:
        return Finding(
            "store", PROBLEM, str(error), "move that file or run directory away, the next launch makes it anew"
        )
    return Finding(
        "store", OK, f"{root} can be written and locked; {many(sweeps, 'sweep')}, {many(runs, 'run')} looked at"
    )


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
    run.checked_status(), run.checked_results()
    for name, damaged in (
        (schema.ATTEMPTS, run.checked_attempts()[1]),
        (schema.JOURNAL, read_journal(path / schema.JOURNAL).damaged),
    ):
        if damaged:
            raise ValueError(f"{path / name}, {lines_in_words(damaged)}: damaged, the rest is used")
    return True


def disk(root: Path) -> Finding:
    free = disk_free(root)
    verdict = OK if free > LITTLE_DISK else PROBLEM
    return Finding(
        "disk", verdict, f"{bytes_in_words(free)} free", "free some, or set MOCO_RUNS elsewhere", essential=False
    )


def mlflow(root: Path, profile: Profile | None) -> Finding:
    """Whether MLflow can be reached. Not essential: the next sync writes what it has missed."""
    uri = Place.of(profile).tracking
    if profile is not None and profile.tracking_mode == "off":
        return Finding("MLflow", OK, f"off in profile {profile.name}")
    if uri and uri.startswith("http"):
        return _server(uri)
    database = root / schema.MLFLOW_DATABASE
    if not database.exists():
        return Finding("MLflow", OK, f"{uri or 'embedded, made by the first sweep'}")
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            (result,) = connection.execute("pragma quick_check(1)").fetchone()
    except sqlite3.Error as error:
        result = str(error)
    remedy = "move it away, python -m experiments sync builds it again from the runs"
    return Finding("MLflow", OK if result == "ok" else PROBLEM, f"{database}: {result}", remedy, essential=False)


def _server(uri: str) -> Finding:
    remedy = "runs go on without it; start it or set MLFLOW_TRACKING_URI, then python -m experiments sync"
    shown = uri.rpartition("@")[2]  # without a password
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=HTTP_SECONDS) as answer:
            text = f"{shown} answers"
            assert answer.status == 200
            return Finding("MLflow", OK, text)
    except (OSError, ValueError) as error:  # a refusal, a wrong address, an HTTP error
        return Finding("MLflow", PROBLEM, f"{shown}: {error}", remedy, essential=False)


def cluster(root: Path, profile: Profile, patience: float) -> Iterator[Finding]:
    there = cluster_named(profile.cluster)
    try:
        there.check()
        if there.phases(this_user()) is None:
            yield Finding("squeue", PROBLEM, "no answer", "is the controller up, SLURM_CONF right? scontrol ping tells")
            return
        yield Finding("squeue", OK, "answers")
        yield Finding("sbatch", OK, there.start_estimate(profile))
    except ValueError as error:
        yield Finding("sbatch", PROBLEM, str(error), f"correct the profile {profile.name}")
        return
    reason = there.accounting()
    yield Finding("sacct", OK, "accounting is there" if reason is None else f"{reason}; nothing here needs it")
    yield from _job(TestJob(root, profile), patience)


def _job(job: TestJob, patience: float) -> Iterator[Finding]:
    try:
        with job.submitted():
            if not job.begun(patience):
                text = (
                    f"job {job.job} still waits after {patience:.0f} s; nodes, signal, requeue and clocks not looked at"
                )
                yield Finding("nodes", UNKNOWN, text, "--patience SECONDS waits longer")
                return
            yield from _node(job)
    except ValueError as error:  # Slurm's refusal
        yield Finding("job", PROBLEM, str(error))


def _node(job: TestJob) -> Iterator[Finding]:
    asked = time.time()
    pong = job.ask(PING, patience=60.0)
    if pong is None:
        yield _unseen(job)
        return
    answered_at = time.time()
    yield Finding("shared disk", OK, f"{pong['host']} sees {job.root}, and we see what it writes")
    copied = OK if pong["code"] else PROBLEM
    remedy = "is an environment or .pth file of the site put before PYTHONPATH?"
    yield Finding(
        "code", copied, f"Python {pong['python']}, {'the' if pong['code'] else 'not the'} copied code", remedy
    )
    yield _locks(job.ask_about_lock(), str(pong["host"]))
    if job.profile.gpus_per_node:
        yield _gpus(pong["gpus"], job.profile.gpus_per_node)
    yield _clocks(pong["time"], asked, answered_at, files_clock(job.folder))
    signalled = job.send_signal() is not None
    remedy = "runs would not save before the time limit; is a wrapper in `setup` catching SIGUSR2?"
    yield Finding("signal", OK if signalled else PROBLEM, "SIGUSR2 is delivered" if signalled else "no SIGUSR2", remedy)
    yield _requeue(job)


def _unseen(job: TestJob) -> Finding:
    line, (_, state) = job.last_line(), job.phase()
    text = f"job {job.job} ended ({state}), it said: {line}" if line else f"job {job.job} ended ({state}) without a log"
    remedy = (
        f"can the nodes see {job.root} and this Python? Set MOCO_RUNS, or runs_root in the profile, to a shared folder"
    )
    return Finding("shared disk", PROBLEM, text, remedy)


def _locks(answer: Mapping[str, Any] | None, node: str) -> Finding:
    """Not essential: where locks end at a machine, heartbeats and the queue of the cluster tell who works on a run."""
    if answer is None:
        return Finding("locks", UNKNOWN, f"{node} gave no answer", essential=False)
    if answer["held"]:
        return Finding("locks", OK, f"{node} sees a lock that this machine holds")
    remedy = (
        "submit from one machine at a time, and start no run by hand that a job may have; the site can mount the disk with "
        "locks for all machines (flock of Lustre, NFS 4)"
    )
    return Finding("locks", PROBLEM, f"{node} does not see a lock that this machine holds", remedy, essential=False)


def _gpus(visible: str | None, wanted: int) -> Finding:
    count = len([gpu for gpu in (visible or "").split(",") if gpu.strip()])
    text = f"{count} visible, {wanted} asked for"
    return Finding("GPU", OK if count == wanted else PROBLEM, text, "look at gpus, gres and constraint of the profile")


def _clocks(there: float, asked: float, answered_at: float, disk_ahead: float) -> Finding:
    """The node read its clock between `asked` and `answered_at`, so a time outside these is skew."""
    node = max(asked - there, there - answered_at, 0.0)
    skew = max(node, abs(disk_ahead))
    text = f"node within {node:.1f} s of this machine, disk {disk_ahead:+.1f} s"
    remedy = f"heartbeats count as stale after {schema.STALE_SECONDS:.0f} s; ask for NTP on all machines"
    return Finding("clocks", OK if skew < SKEW_SECONDS else PROBLEM, text, remedy)


def _requeue(job: TestJob) -> Finding:
    remedy = "runs stop at their time limit and wait for the sweep's command, which goes on from their checkpoints"
    answer = job.ask(REQUEUE)
    if answer is None:
        answer = {"refused": None if job.back_in_the_queue() else "no answer"}
    if answer["refused"] is None and job.back_in_the_queue():
        return Finding("requeue", OK, "a job may put itself back into the queue")
    return Finding("requeue", PROBLEM, answer["refused"] or "the job did not come back", remedy, essential=False)


def register(add: AddVerb) -> None:
    verb = add(
        "doctor",
        help="look at store, MLflow and a cluster, and say what to do",
        allow_abbrev=False,
        description="Exit 1 when something essential is wrong. --cluster sends a job of a few seconds.",
    )
    verb.add_argument("--cluster", metavar="PROFILE", help=f"look at this one, too: {', '.join(profile_names())}")
    add_cluster_set(verb)
    verb.add_argument("--patience", type=float, default=60.0, metavar="S", help="for the job to begin (default: 60)")
    verb.set_defaults(run=doctor)


def doctor(options: argparse.Namespace, command: str) -> int:
    profile = cluster_profile(options.cluster or LOCAL, settings=options.cluster_set)

    def show(finding: Finding) -> None:
        first, *rest = paragraph(str(finding))
        print("\n".join([first, *(f"{'':<9}{line}" for line in rest)]), flush=True)

    return 0 if examine(Place.of(profile).root, profile, options.patience, show) else 1
