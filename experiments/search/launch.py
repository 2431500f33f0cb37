"""Start a search's workers, on this machine or as an array of jobs, and follow them by the record that they write.

    begin, closing           before the first worker and after the last: make the study, put it in order
    warm_start               adds a finished run to the study
    LocalWorkers             workers as processes of this machine
    submit_workers, follow   workers as jobs
    View                     prints a line for each trial that ends

What a worker does is in `experiments.search.worker`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from experiments.launch.cluster import POLL_SECONDS, check_shared_disk, submission_of
from experiments.launch.grid import many
from experiments.launch.local import Pool
from experiments.launch.options import verb
from experiments.launch.process import Child, Work, how_it_ended, last_line
from experiments.launch.progress import clock
from experiments.launch.snapshot import Snapshot
from experiments.run.cluster import ENDED, Cluster, Profile, array_of, cluster_named, this_user
from experiments.run.machine import Slot
from experiments.search.address import time_is_up
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

WORKER_POLL_SECONDS = 0.2
WORKER = Work(run_worker, preload=("experiments.search.worker", "moco.train"))
SHOWN_STATES = (schema.DONE, schema.PRUNED, schema.FAILED)


def begin(path: Path, record: SearchRecord, address: str | None, cells: Sequence[schema.Cell]) -> SearchRecord:
    """Make the study, or open it, and add the finished runs among `cells`. Returns the record.

    Raises ValueError, with nothing written, for a storage that cannot be reached.
    """
    study = Study(path, record, address)
    with study.locked():
        replace_json(path, record)
        study.begin()
        study.fail_lost_trials()
        if cells:
            added = sum(warm_start(study, cell) for cell in cells)
            print(f"warm start: {added} of {len(cells)} runs are finished and lie in the space", flush=True)
        return export(study)


def closing(path: Path, address: str | None) -> SearchRecord:
    """After the last worker: fail trials that are left running, and write the record with the importances."""
    record = read_record(path)
    assert record is not None
    study = Study(path, record, address)
    with study.locked():
        study.fail_lost_trials()
        return export(study, final=True, failure=study.failure())


def warm_start(study: Study, cell: schema.Cell) -> bool:
    """Add a finished run to the study. Returns False for one that is unfinished, known, or outside the space."""
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
    if not _same_but_seed(config, study.config(texts)):
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


def _same_but_seed(config: Config, other: Config) -> bool:
    """Whether the configs are equal but for the seed."""
    return run_id(config) == run_id(replace(other, train=replace(other.train, seed=config.train.seed)))


@dataclass
class View:
    """Prints a line for each trial that has ended, once."""

    path: Path
    shown: set[int] = field(default_factory=set)
    seen: float = 0.0

    def skip_past(self) -> None:
        """Count the trials that have ended so far as shown."""
        record = read_record(self.path)
        self.shown = {t["number"] for t in record["trials"] if t["state"] in SHOWN_STATES} if record else set()

    def update(self) -> None:
        """Read the record if it has changed, and print what is new."""
        changed = self.path.stat().st_mtime if self.path.exists() else 0.0
        if changed == self.seen:
            return
        self.seen = changed
        record = read_record(self.path)
        if record is not None:
            for trial in record["trials"]:
                if trial["state"] in SHOWN_STATES and trial["number"] not in self.shown:
                    self.shown.add(trial["number"])
                    print(trial_line(record, trial, len(finished(record))), flush=True)


def trial_line(record: SearchRecord, trial: TrialRecord, count: int) -> str:
    """`3/24  trial-2  done  knn20_top1 71.2  1m 12s  optim.lr=0.05`. `count`: finished trials."""
    so_far = f"{count}/{record['budget']}"
    head = f"{so_far:<8}{arm_of(trial['number']):<10}"
    parts = ["diverged" if trial.get("diverged") else trial["state"]]
    if trial.get("values"):
        parts.append(", ".join(f"{m} {v:.4g}" for m, v in zip(record["metrics"], trial["values"] or [], strict=True)))
    elif trial.get("reason"):
        parts.append(f"({trial['reason']})")
    if (hours := trial.get("hours")) is not None:
        parts.append(clock(hours * 3600))
    parts.append(" ".join(f"{name}={value}" for name, value in trial.get("settings", {}).items()))
    return head + "  ".join(parts)


class LocalWorkers:
    """The workers of a search on this machine, one process per slot."""

    def __init__(self, path: Path, slots: Sequence[Slot], given: Mapping[str, str], work: Work = WORKER) -> None:
        """given: what `address.environment` says to the workers."""
        slots = [replace(slot, environment={**slot.environment, **given}) for slot in slots]
        self.path, self.pool, self.given = path, Pool(slots, work), given
        self.failures: list[str] = []  # of the last round's workers, a line each

    def run(self, view: View) -> bool:
        """Run rounds of workers until the budget is spent, or a round finishes no trial. Returns False if interrupted."""
        before = -1
        with self.pool.stoppable():
            while (
                not self.pool.interrupts
                and not time_is_up(self.given)
                and before < (done := self._finished()) < self._record()["budget"]
            ):
                before = done
                self._round(view)
        return not self.pool.interrupts

    def _round(self, view: View) -> None:
        """Start the workers and wait for them. They leave when enough trials are running; if one of them then dies, its
        trial is left to the next round."""
        self.failures, logs = [], dict[Child, Path]()
        folder = self.path.with_suffix("")
        for slot in self.pool.slots:
            log = folder / f"worker-{slot.number}.txt"
            child = None if self.pool.interrupts else self.pool.start(slot, [str(self.path)], log=log)
            if child is not None:
                logs[child] = log
        while self.pool.children:
            for child, code in self.pool.collect():
                if code != 0:
                    self.failures.append(f"a worker {how_it_ended(code)}: {last_line(logs[child])}")
            view.update()
            time.sleep(WORKER_POLL_SECONDS)
        view.update()

    def _record(self) -> SearchRecord:
        record = read_record(self.path)
        assert record is not None
        return record

    def _finished(self) -> int:
        record = self._record()
        return record["budget"] if record["failure"] else len(finished(record))


def submit_workers(
    path: Path,
    record: SearchRecord,
    profile: Profile,
    count: int,
    given: Mapping[str, str],
    element: Callable[[str], object] = work,
) -> list[str]:
    """Submit an array of `count` workers and return the job ids. Raises Refused with nothing submitted.

    given: what `address.environment` says to the workers. element: what each job does.
    """
    root, code = path.parent.parent, Snapshot.of_this_code()
    disk_check = check_shared_disk(root, profile)
    code.write(root)
    submission = replace(submission_of(root, record["label"], profile, None, code), only_if=disk_check)
    submission = replace(submission, environment={**submission.environment, **given})
    jobs = cluster_named(profile.cluster).submit(submission, element, [path] * count)
    array = ", ".join(dict.fromkeys(array_of(job) for job in jobs))
    print(
        f"submitted {many(len(jobs), 'worker')} to {profile.name} as job {array}; with --wait the command follows them"
    )
    print(verb(root, "status", record["label"]), flush=True)
    return jobs


def follow(path: Path, jobs: list[str], cluster: Cluster) -> bool:
    """Print trials as they end, until no worker is in the queue. Returns False at Ctrl-C, which leaves the jobs alone."""
    view = View(path)
    view.skip_past()
    try:
        while not _ended(jobs, cluster):
            view.update()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return False
    view.update()
    return True


def _ended(jobs: list[str], cluster: Cluster) -> bool:
    """Whether all jobs have ended, by two answers of the queue: a controller that restarts lacks jobs for a moment."""

    def all_gone() -> bool:
        phases = cluster.phases(this_user())
        return phases is not None and all(job not in phases or phases[job][0] == ENDED for job in jobs)

    if not all_gone():
        return False
    time.sleep(POLL_SECONDS)
    return all_gone()
