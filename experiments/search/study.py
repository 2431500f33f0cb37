"""`Study`: the Optuna study of a search. A process that changes it holds the search's lock file.

A running trial belongs to a worker (`Held`), which holds a lock file of its own. If the worker dies, the trial fails and
its point is drawn once more; if the worker is a job that waits to be started again, the trial is kept for it. A new
sampler is made for every trial, seeded by the trial's number, so a search with one worker draws the same points however
often it is interrupted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.run.cluster import ENDED, WAITING
from experiments.run.provenance import JobFacts
from experiments.search.space import Drawn, configured, from_plain, point, settings
from experiments.search.storage import open_storage
from experiments.state.state import GONE, QUEUE
from experiments.store import schema
from experiments.store.files import exclusive
from experiments.store.run import RunDirectory
from experiments.store.schema import SearchRecord
from experiments.store.states import host
from moco.config import Config
from moco.config.plain import from_plain as config_from_plain
from moco.config.plain import run_id

RETRIES = 1  # of a point whose worker died; a second death may be caused by the point itself
FAILURES_IN_A_ROW = 5  # after which the workers give up
HELD, END, SOURCE, AGAIN_OF = "held", "end", "source", "again_of"
WARM, BASE, AGAIN = "warm start", "base", "again"
UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True)
class Held:
    """A trial's run and the worker that holds it, kept with the trial. `lock`: the name of the worker's directory."""

    run_id: str
    settings: dict[str, str]
    lock: str
    host: str
    job: str | None
    cluster: str | None = None  # of the job; not in older studies, where it was slurm
    owner: str | None = None  # user who submitted the job


@dataclass(frozen=True)
class Ended:
    """How a trial ended. `state`: of its run; `values`: one per metric, for a done trial only."""

    state: str
    values: tuple[float, ...] | None = None
    reason: str | None = None
    diverged: bool = False
    hours: float | None = None
    memory_gb: float | None = None
    constraints: Mapping[str, float] | None = None


class Study:
    """The study of a record. `folder`, beside the record, holds the workers' locks."""

    def __init__(self, path: Path, record: SearchRecord, address: str | None) -> None:
        self.path, self.record = path, record
        self.folder = path.parent / record["label"]
        self.space = from_plain(record["space"])
        self.base: Config = config_from_plain(Config, record["base_config"])
        self.storage = open_storage(address, path.parent / f"{record['label']}.journal")
        self.folder.mkdir(parents=True, exist_ok=True)
        if record.get("sampler_options"):
            make_sampler(record, self.space, 0)  # refuses those that it does not have
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=record["study"],
            load_if_exists=True,
            directions=[StudyDirection[direction.upper()] for direction in record["directions"]],
            sampler=optuna.samplers.RandomSampler(),
            pruner=make_pruner(record["pruner"], self.base),
        )

    def locked(self) -> AbstractContextManager[None]:
        return exclusive(self.folder / "lock")

    def close(self) -> None:
        """Leave a database; a journal holds nothing open."""
        if isinstance(self.storage, optuna.storages.RDBStorage):
            self.storage.remove_session()
            self.storage.engine.dispose()

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def config(self, texts: Mapping[str, str]) -> Config:
        return configured(self.base, texts)

    # The methods below are called with the lock held.

    def begin(self) -> None:
        """Of a new study: make the base's own values the first trial, if they lie in the space."""
        if self.trials():
            return
        own = point(self.space, self.base)
        if own is not None:
            self.study.enqueue_trial(own, user_attrs={SOURCE: BASE})

    def counted(self) -> int:
        """Trials of the budget that are finished or running, without those of a warm start."""
        ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        return sum(t.state in ended and t.user_attrs.get(SOURCE) != WARM for t in self.trials())

    def failure(self) -> str | None:
        """Why the search has to give up, None if it need not: too many trials in a row failed."""
        ended = [t for t in self.trials() if t.state not in UNFINISHED and t.user_attrs.get(SOURCE) != WARM]
        last = ended[-FAILURES_IN_A_ROW:]
        broken = [
            t for t in last if t.state == TrialState.FAIL and t.user_attrs.get(END, {}).get("state") == schema.FAILED
        ]
        if len(broken) < FAILURES_IN_A_ROW:
            return None
        return f"{len(broken)} trials in a row failed, the last one: {broken[-1].user_attrs[END].get('reason')}"

    def ask(self, lock: str, job: JobFacts) -> tuple[Trial, Config]:
        """A new trial and its config. Raises ValueError, with the trial failed, for fields that do not fit each other."""
        self.study.sampler = make_sampler(self.record, self.space, len(self.trials()))
        trial = self.study.ask()
        texts = settings(self.space, lambda asked: suggest(trial, asked))
        try:
            config = self.config(texts)
        except ValueError as error:
            self.tell(trial, Ended("invalid", reason=str(error)))
            raise
        trial.set_user_attr(HELD, asdict(Held(run_id(config), texts, lock, host(), **job)))
        return trial, config

    def held_by_job(self, job: str | None) -> tuple[Trial, Held] | None:
        """The running trial that this job held before it was put back into the queue."""
        for frozen in self.trials():
            held = held_of(frozen)
            if job is not None and frozen.state == TrialState.RUNNING and held is not None and held.job == job:
                return Trial(self.study, frozen._trial_id), held
        return None

    def hold(self, trial: Trial, held: Held) -> None:
        trial.set_user_attr(HELD, asdict(held))

    def tell(self, trial: Trial, ended: Ended) -> None:
        """Write how the trial ended, its facts before its state. A diverged run counts as pruned: its point is bad."""
        if ended.constraints:
            for name, excess in ended.constraints.items():
                trial.set_constraint(name, excess)
        facts = {k: v for k, v in vars(ended).items() if v not in (None, False) and k not in ("values", "constraints")}
        trial.set_user_attr(END, facts)
        if ended.state == schema.DONE:
            self.study.tell(trial, list(ended.values or ()))
        elif ended.state == schema.PRUNED or ended.diverged:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def ask_again(self, frozen: FrozenTrial, reason: str, *, counts: bool = True) -> None:
        """Fail a trial that lost its worker, and queue its point again. `counts`: as one of the `RETRIES`."""
        tries = frozen.user_attrs.get("tries", 0) + counts
        trial = Trial(self.study, frozen._trial_id)
        self.tell(trial, Ended("again" if tries <= RETRIES else schema.LOST, reason=reason))
        if tries <= RETRIES and frozen.params:
            attributes = {SOURCE: AGAIN, AGAIN_OF: frozen.number, "tries": tries}
            self.study.enqueue_trial(dict(frozen.params), user_attrs=attributes)

    def fail_lost_trials(self) -> bool:
        """Fail the running trials whose worker has died. Returns whether every other one is known to have a worker."""
        certain = True
        for frozen in self.trials():
            if frozen.state != TrialState.RUNNING:
                continue
            dead, why = self._fate(held_of(frozen))
            if dead:
                self.ask_again(frozen, why)
            certain = certain and (dead or why != UNKNOWN)
        return certain

    def _fate(self, held: Held | None) -> tuple[bool, str]:
        """Whether the worker of a running trial has died, and why; (False, UNKNOWN) where that cannot be told yet."""
        if held is None:
            return True, "its worker died while it was asking"
        if lock_is_held(self.folder / held.lock, held.host):
            return False, ""
        if held.job is None:
            return True, f"its worker on {held.host} has ended without a word (killed, or out of memory?)"
        phase, own_state = QUEUE.phase(held.job, held.cluster, held.owner)
        if phase == WAITING:
            return False, ""
        if phase in (GONE, ENDED):
            return True, f"job {held.job} ended" + (f": {own_state}" if own_state else "")
        return False, UNKNOWN  # it may be about to start or to end


UNKNOWN = "unknown"


def held_of(frozen: FrozenTrial) -> Held | None:
    plain = frozen.user_attrs.get(HELD)
    return Held(**plain) if plain else None


def lock_is_held(path: Path, by: str) -> bool:
    """Whether the worker lives: by its lock on this machine, by a fresh heartbeat on another (`by`: its host)."""
    worker = RunDirectory(path)
    if worker.is_locked():
        return True
    age = worker.heartbeat_age()
    return by != host() and age is not None and age < schema.STALE_SECONDS


def distribution(asked: Drawn) -> BaseDistribution:
    if asked.options:
        return CategoricalDistribution(asked.options)
    if asked.whole:
        return IntDistribution(int(asked.low), int(asked.high))
    return FloatDistribution(asked.low, asked.high, log=asked.log)


def suggest(trial: Trial, asked: Drawn) -> Any:
    if asked.options:
        return trial.suggest_categorical(asked.name, asked.options)
    if asked.whole:
        return trial.suggest_int(asked.name, int(asked.low), int(asked.high))
    return trial.suggest_float(asked.name, asked.low, asked.high, log=asked.log)


def make_sampler(record: SearchRecord, space: Mapping[str, Any], number: int) -> optuna.samplers.BaseSampler:
    """A sampler seeded by the study's seed and the trial's number, so that no two workers draw the same points."""
    from experiments.search.space import Given

    seed = (record["seed"] * 1_000_003 + number) % 2**32
    several = len(record["metrics"]) > 1
    given = record.get("sampler_options", {})
    match record["sampler"]:
        case "random":
            return _made(optuna.samplers.RandomSampler, given, seed=seed)
        case "gp":
            return _made(optuna.samplers.GPSampler, given, seed=seed)
        case "cmaes":
            return _made(optuna.samplers.CmaEsSampler, given, seed=seed, warn_independent_sampling=False)
        case "qmc":  # one sequence for all trials; the storage counts its points
            own: dict[str, Any] = {"seed": record["seed"], "scramble": True, "warn_independent_sampling": False}
            return _made(optuna.samplers.QMCSampler, given, **own)
    conditional = any(isinstance(entry, Given) for entry in space.values())
    return _made(optuna.samplers.TPESampler, given, seed=seed, group=conditional and not several)


def _made(
    kind: Callable[..., optuna.samplers.BaseSampler], given: Mapping[str, Any], **own: Any
) -> optuna.samplers.BaseSampler:
    """The sampler with the search's options. Raises ValueError, with those there are, for one that it does not have."""
    known = [name for name in inspect.signature(kind).parameters if name != "seed"]
    for name in given:
        if name not in known:
            raise ValueError(f"sampler_options {name}: {kind.__name__} has {', '.join(known) or 'none'}")
    return kind(**{**own, **given})


def make_pruner(name: str, base: Config) -> optuna.pruners.BasePruner:
    every, epochs = max(1, base.evaluation.knn_every), max(1, base.train.epochs)
    match name:
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=5)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=min(every, epochs), max_resource=epochs, reduction_factor=3
            )
        case "wilcoxon":
            return optuna.pruners.WilcoxonPruner()
    return optuna.pruners.NopPruner()
