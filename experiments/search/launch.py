"""The workers of a search as the elements of one Slurm array; each asks, trains and tells until the budget is spent."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from experiments.launch.cluster import POLL_SECONDS, check_shared_disk, submission_of
from experiments.launch.local import Pool
from experiments.launch.process import Child, Work, how_it_ended, last_line
from experiments.launch.progress import clock
from experiments.launch.snapshot import Snapshot
from experiments.run.cluster import ENDED, Cluster, Profile, array_of, cluster_named, this_user
from experiments.run.machine import Slot
from experiments.search.address import STORAGE
from experiments.search.definition import HOURS
from experiments.search.export import export
from experiments.search.space import Drawn, point, settings
from experiments.search.study import END, HELD, SOURCE, WARM, Study, distribution
from experiments.search.trial import Evaluations, measured
from experiments.search.worker import main as run_worker
from experiments.search.worker import work
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.files import replace_json
from experiments.store.run import RunDirectory
from experiments.store.schema import SearchRecord, TrialRecord
from experiments.store.search_record import arm_of, finished, read_record
from moco.config import Config
from moco.config.plain import from_plain, run_id

# Before the first worker and after the last: the study is made, warmed up, and brought in order.


def begin(path: Path, record: SearchRecord, address: str | None, cells: Sequence[schema.Cell]) -> SearchRecord:
    """The study as it is when the workers come. Raises ValueError, with nothing written, for a storage that is away."""
    study = Study(path, record, address)
    with study.locked():
        replace_json(path, record)
        study.begin()
        study.close_ghosts()
        if cells:
            told = sum(warm_start(study, cell) for cell in cells)
            print(f"warm start: {told} of {len(cells)} runs are finished and lie in the space", flush=True)
        return export(study)


def closing(path: Path, address: str | None) -> SearchRecord:
    """When all workers have gone: nothing is left running, and the importances are there."""
    from experiments.store.search_record import read_record

    record = read_record(path)
    assert record is not None
    study = Study(path, record, address)
    with study.locked():
        study.close_ghosts()
        return export(study, final=True, failure=study.failure())


def warm_start(study: Study, cell: schema.Cell) -> bool:
    """Tell the study of a finished run; False for one that is not, is known, or lies outside the space."""
    config: Config = from_plain(Config, cell["config"])
    run = RunDirectory(study.path.parent.parent / cell["run_id"])
    known = {t.user_attrs[HELD]["run_id"] for t in study.trials() if HELD in t.user_attrs}
    drawn = point(study.space, config)
    if cell["run_id"] in known or drawn is None or state_of(run.path).state != schema.DONE:
        return False
    readouts, hours, memory = measured(run)
    values = [hours if metric == HOURS else readouts.get(metric) for metric in study.record["metrics"]]
    if None in values:
        return False
    distributions: dict[str, optuna.distributions.BaseDistribution] = {}

    def draw(asked: Drawn) -> Any:
        distributions[asked.name] = distribution(asked)
        return drawn[asked.name]

    texts = settings(study.space, draw)
    if not _is(config, study.config(texts)):
        return False
    held = {"run_id": cell["run_id"], "settings": texts, "lock": "", "host": "", "job": None}
    facts = {"state": schema.DONE, "hours": hours, "memory_gb": memory}
    evaluations = dict(Evaluations(run).new()) if len(values) == 1 else {}
    attributes = {HELD: held, END: facts, SOURCE: WARM, "config": cell["config"]}
    study.study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            values=[v for v in values if v is not None],
            params=drawn,
            distributions=distributions,
            user_attrs=attributes,
            intermediate_values=evaluations,
        )
    )
    return True


def _is(config: Config, other: Config) -> bool:
    """The same but for the seed: nothing outside the space differs."""
    return run_id(config) == run_id(replace(other, train=replace(other.train, seed=config.train.seed)))


# The workers of a search on this machine: started, followed by the record that they write, stopped by Ctrl-C.


WORKER_LOOK_SECONDS = 0.2
WORKER = Work(run_worker, preload=("experiments.search.worker", "moco.train"))
SHOWN = (schema.DONE, schema.PRUNED, schema.FAILED)


@dataclass
class View:
    """Says in a line what each trial came to, once."""

    path: Path
    told: set[int] = field(default_factory=set)
    seen: float = 0.0

    def skip_past(self) -> None:
        """What ended before this launch is not news."""
        record = read_record(self.path)
        self.told = {t["number"] for t in record["trials"] if t["state"] in SHOWN} if record else set()

    def look(self) -> SearchRecord | None:
        changed = self.path.stat().st_mtime if self.path.exists() else 0.0
        if changed == self.seen:
            return None
        self.seen = changed
        record = read_record(self.path)
        if record is not None:
            for trial in record["trials"]:
                if trial["state"] in SHOWN and trial["number"] not in self.told:
                    self.told.add(trial["number"])
                    print(line(record, trial, len(finished(record))), flush=True)
        return record


def line(record: SearchRecord, trial: TrialRecord, count: int) -> str:
    so_far = f"{count}/{record['budget']}"
    head = f"{so_far:<8}{arm_of(trial['number']):<10}"
    words = ["diverged" if trial.get("diverged") else trial["state"]]
    if trial.get("values"):
        words.append(", ".join(f"{m} {v:.4g}" for m, v in zip(record["metrics"], trial["values"] or [], strict=True)))
    elif trial.get("reason"):
        words.append(f"({trial['reason']})")
    if (hours := trial.get("hours")) is not None:
        words.append(clock(hours * 3600))
    words.append(" ".join(f"{name}={value}" for name, value in trial.get("settings", {}).items()))
    return head + "  ".join(words)


class Crew:
    """One process per slot."""

    def __init__(self, path: Path, slots: Sequence[Slot], address: str | None, work: Work = WORKER) -> None:
        storage = {} if address is None else {STORAGE: address}
        slots = [replace(slot, environment={**slot.environment, **storage}) for slot in slots]
        self.path, self.pool = path, Pool(slots, work)
        self.failures: list[str] = []  # how those of the last round ended that did not end well

    def run(self, view: View) -> bool:
        """Until the budget is spent or nothing comes of going on. Returns False if it was interrupted."""
        before = -1
        with self.pool.stoppable():
            while not self.pool.interrupts and before < (done := self._finished()) < self._record()["budget"]:
                before = done
                self._round(view)
        return not self.pool.interrupts

    def _round(self, view: View) -> None:
        """Workers leave when enough is under way; where one of them died on the last trials, another round makes up for it."""
        self.failures, logs = [], dict[Child, Path]()
        folder = self.path.parent / read_label(self.path)
        for slot in self.pool.slots:
            log = folder / f"worker-{slot.number}.txt"
            child = None if self.pool.interrupts else self.pool.start(slot, [str(self.path)], log=log)
            if child is not None:
                logs[child] = log
        while self.pool.children:
            for child, code in self.pool.collect():
                if code != 0:
                    self.failures.append(f"a worker {how_it_ended(code)}: {last_line(logs[child])}")
            view.look()
            time.sleep(WORKER_LOOK_SECONDS)
        view.look()

    def _record(self) -> SearchRecord:
        record = read_record(self.path)
        assert record is not None
        return record

    def _finished(self) -> int:
        record = self._record()
        return record["budget"] if record["failure"] else len(finished(record))


def read_label(path: Path) -> str:
    return path.name.removesuffix(".json")


def submit_workers(
    path: Path,
    record: SearchRecord,
    profile: Profile,
    count: int,
    address: str | None,
    element: Callable[[str], object] = work,
) -> list[str]:
    """`element`: what each of the array's does. Returns the job ids. Raises Refused with nothing submitted."""
    root, code = path.parent.parent, Snapshot.of_this_code()
    look = check_shared_disk(root, profile)
    code.write(root)
    submission = replace(submission_of(root, record["label"], profile, None, code), only_if=look)
    if address is not None:
        submission = replace(submission, environment={**submission.environment, STORAGE: address})
    jobs = cluster_named(profile.cluster).submit(submission, element, [path] * count)
    array = ", ".join(dict.fromkeys(array_of(job) for job in jobs))
    name = shlex.quote(record["label"])
    print(f"submitted {len(jobs)} workers to {profile.name} as job {array}; with --wait the command follows them")
    print(f"python -m experiments status {name}", flush=True)
    return jobs


def follow(path: Path, jobs: list[str], cluster: Cluster) -> bool:
    """Say what trials come to until no worker is in the queue. Returns False at Ctrl-C, which leaves the jobs alone."""
    view = View(path)
    view.skip_past()
    try:
        while not _ended(jobs, cluster):
            view.look()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return False
    view.look()
    return True


def _ended(jobs: list[str], cluster: Cluster) -> bool:
    """Absent from one answer is no proof: it takes two, for a controller that restarts lacks jobs for a moment."""

    def all_gone() -> bool:
        phases = cluster.phases(this_user())
        return phases is not None and all(job not in phases or phases[job][0] == ENDED for job in jobs)

    if not all_gone():
        return False
    time.sleep(POLL_SECONDS)
    return all_gone()
