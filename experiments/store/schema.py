"""Every name that one package writes and another reads: files, states, metric keys, readouts, tags; and the types of records.

The run directory holds the data; MLflow and the tables are views of it. All packages use these names.

    $MOCO_RUNS/
        <run id>/                   one arm x seed, trained once however many sweeps it stands in
            config.json             the resolved config (moco.config.plain.to_plain)
            status.json             state, reason, step, total_steps, ...; replaced atomically
            attempts.jsonl          one line when an attempt starts, one when it ends
            journal.jsonl           metrics: {"step", "epoch", "time", "values"[, "system"][, "judged"]} or
                                    {"resumed_at": step}; `evaluate` adds records with "judged" at the end of a done run
            results.json            final readouts: {"test": {...}, "validation": {...}, "seconds": ...}
            checkpoint.pt           everything that resume needs; checkpoint.previous.pt: the one before it
            readouts.pt             final readouts that were stopped midway: what they had
            hits.json               readout -> which test images it got right, one bit each; older runs have none
            encoder.pt              the query encoder at the end
            images.json             what happened to the image files, for a set that is read from files (see `Images`)
            heartbeat, lock         the heartbeat's mtime is fresh, and the lock held, while a worker lives; the heartbeat
                                    says the attempt and the seconds that it has lived
            log.txt, environment.json, uncommitted.diff
        sweeps/<name>@<baseline>[,field=value...].json    a sweep as it was planned (see `Manifest`)
        set-aside/<run id>.<time>/  what `--force` replaced is moved here, never deleted
        mlflow.db, mlflow-artifacts/, store-id
        slurm/                      scripts and logs of jobs; <label>.jsonl: what was submitted of a sweep, and when
        slurm/seen/                 the node of a cluster and partition that sees this folder; checked once
        code/<hash>/                the code that the jobs of a submission run
        launchers/<host>.<pid>.<start>   the heartbeat of a launcher, for machines that do not see its process
        calibration/<key>/          20 timed steps: pace.json
        .states.json                states of runs at rest, so that `status` need not read them again; may be deleted
"""

from __future__ import annotations

from typing import Any, Final, TypedDict

from experiments.store.metrics import ADDED as ADDED
from experiments.store.metrics import AT_END as AT_END
from experiments.store.metrics import DETAILS as DETAILS
from experiments.store.metrics import METRICS as METRICS
from experiments.store.metrics import ON_REQUEST as ON_REQUEST
from experiments.store.metrics import READOUTS as READOUTS
from experiments.store.metrics import SYSTEM_METRICS as SYSTEM_METRICS

STORE_VERSION: Final = 1

CONFIG, STATUS, ATTEMPTS, JOURNAL = "config.json", "status.json", "attempts.jsonl", "journal.jsonl"
RESULTS, CHECKPOINT, ENCODER, LOG = "results.json", "checkpoint.pt", "encoder.pt", "log.txt"
PREVIOUS, STOPPED_READOUTS = "checkpoint.previous.pt", "readouts.pt"
HITS = "hits.json"
HEARTBEAT, LOCK, ENVIRONMENT, DIFF = "heartbeat", "lock", "environment.json", "uncommitted.diff"
IMAGES = "images.json"
CANCEL, SET_ASIDE_FOLDER = "cancel", "set-aside"
JUDGING = "judging"  # lock file, held while `evaluate` adds readouts to a finished run
PRUNE = "prune"  # a search asks the run to end here; holds the reason, one line
# <label>.json: see `SearchRecord`; <label>.journal: the Optuna study; <label>/: its workers
SEARCHES_FOLDER = "searches"
SWEEPS_FOLDER, MLFLOW_DATABASE, MLFLOW_ARTIFACTS = "sweeps", "mlflow.db", "mlflow-artifacts"
STORE_ID = "store-id"
SLURM_FOLDER, CODE_FOLDER, AT_REST_INDEX = "slurm", "code", ".states.json"
LAUNCHERS_FOLDER = "launchers"
CALIBRATION_FOLDER, PACE = "calibration", "pace.json"

# States of a run. `missing` is never written: there is no run directory yet.
MISSING, QUEUED, RUNNING, PREEMPTED = "missing", "queued", "running", "preempted"
DONE, FAILED, CANCELLED, LOST = "done", "failed", "cancelled", "lost"
PRUNED = "pruned"  # ended early by a search, with everything saved: no failure, and no result
STATES: Final = (MISSING, QUEUED, RUNNING, PREEMPTED, DONE, PRUNED, FAILED, CANCELLED, LOST)

# A worker on another machine without a heartbeat for so long is dead: 36 missed ones, longer than a shared disk's cache.
STALE_SECONDS: Final = 180.0

# Readouts that code names; all of them, with title and meaning, are in `metrics`.
LINEAR, KNN20, KNN200, FEW_LABEL = "linear_top1", "knn20_top1", "knn200_top1", "few_label_top1"
RANDOM_INIT: Final = "random init"  # the arm that every table has

# MLflow tags of a run.
TAGS: Final[dict[str, str]] = {
    "moco.run_id": "name of the run directory",
    "moco.sweep": "name of the sweep that first planned the run",
    "moco.arm": "name of the arm in that sweep",
    "moco.seed": "seed",
    "moco.state": "state of the run directory at the last sync",
    "moco.reason": "why it failed or stopped",
    "moco.diverged": "1 when the loss stopped being finite",
    "moco.commit": "commit of the last attempt",
    "moco.job": "Slurm job of the last attempt, if any",
    "moco.run_dir": "path of the run directory",
    "moco.sent": "values sent so far, and the time of the last: where the next sync goes on",
    "moco.study": "name of the Optuna study that asked for the run, on its parent too",
    "moco.trial": "number of the trial in that study; on the parent, of the best one",
    "moco.store": "name of the folder of runs (its file store-id), so that two people's runs of one sweep stay apart",
    "moco.files": "short hash of the names, sizes and times of the artifacts uploaded so far",
    "moco.model": "where the final encoder is, path (in moco.run_dir) or uploaded, and the size and time of its file",
    "best.<config field>": "on a search's parent: the value in the best trial",
    "importance.<config field>": "on a search's parent: share of the first metric's variance that the field explains",
    "moco.hardware": "GPU or processor of the last attempt",
    "moco.seconds": "of a done run: wall clock of all attempts",
    "moco.steps": "of a done run: its steps",
    "moco.readouts": "of a done run with readouts that the program's own list lacks: their records, as JSON",
    "moco.device_seconds": "seconds of all attempts, also failed and cancelled ones, times their processes (one device each)",
    "moco.images": "what happened to the image files, one line, for a set that is read from files",
    "moco.uncommitted": "short hash of the changes that were not committed; absent for a clean tree",
}

# Metrics of a search's parent run; the step is the number of the trial.
STUDY_METRICS: Final[dict[str, str]] = {
    "study/best": "best value so far of the first metric, over the finished trials in the order in which they ended",
    "study/<metric>": "value of that trial, for each metric of the search",
}

# Tags of MLflow's own that a run carries.
MLFLOW_TAGS: Final[dict[str, str]] = {
    "mlflow.parentRunId": "the sweep's run, of which the arm's runs are children",
    "mlflow.note.content": "the question, this run's result, the sweep's table and the exact commands, in Markdown",
    "mlflow.source.name": "the sweep's file",
    "mlflow.source.type": "always LOCAL",
    "mlflow.source.git.commit": "as moco.commit",
}

CURVES: Final = "curves.csv"  # made for MLflow, in no run directory

# MLflow artifacts of a run; a file over 5 MB stays where it is (tag moco.run_dir).
RUN_ARTIFACTS: Final[dict[str, str]] = {
    CONFIG: "the resolved config",
    ENVIRONMENT: "command, commit, host, hardware, Python and every installed package",
    DIFF: "the uncommitted changes against that commit",
    LOG: "the log of all attempts",
    RESULTS: "the final readouts",
    CURVES: "every record of the journal that counts, a row a record: all keys, not thinned unless over 5 MB",
}


class Status(TypedDict, total=False):
    """status.json. The status of a dead worker is still "running"; `experiments.state.state.state_of` gives the true state."""

    state: str
    reason: str | None  # one line: why it failed or stopped, for people
    cause: str | None  # the same for programs, one of experiments.store.causes; absent in older stores
    diverged: bool
    step: int
    total_steps: int
    epoch: float
    images_per_s: float | None
    knn: float | None  # last validation/knn20_top1, percent
    host: str  # of the worker; while queued, of the launcher
    pid: int
    process_started: int | None  # kernel ticks since boot: tells a process from a later one with its pid
    job: str | None  # the cluster's job that will run it, runs it or ran it last, "123" or "123_4"
    cluster: str  # of that job, as profiles name it; absent in older stores, where it was slurm
    owner: str  # user who submitted it; absent in older stores
    updated: str  # ISO 8601, UTC


class Attempt(TypedDict, total=False):
    """A line of attempts.jsonl; `event` is "start" or "end". The end of a killed attempt is written by the next one."""

    event: str
    attempt: int  # from 1
    time: str  # ISO 8601, UTC
    host: str  # start, as are the next seven
    pid: int
    process_started: int | None
    hardware: str  # "NVIDIA H100 80GB HBM3" or the CPU's name and the threads used
    driver: str | None  # version of the GPU's driver; None without one
    commit: str | None
    uncommitted: str | None  # short hash of the diff against that commit, None for a clean tree
    job: str | None  # of a cluster, "123" or "123_4"
    cluster: str  # as in Status, if there is a job
    owner: str
    ranks: int  # processes that train the run together, one device each; absent in older stores, where it was one
    state: str  # end, as are the next three
    reason: str | None
    cause: str | None  # end; as in Status
    step: int
    readouts: int  # end, where the final readouts were stopped: their parts and epochs that are kept, of all attempts
    seconds: float  # wall clock of this attempt


class Results(TypedDict, total=False):
    """results.json. A run is done when it exists."""

    test: dict[str, float]  # readout -> percent; the names of READOUTS and any other the evaluation gives
    validation: dict[str, float]
    readout: dict[str, float]  # facts about the readouts, such as the chosen learning rate
    metrics: list[dict[str, Any]]  # records of readouts that `metrics.readouts.json` lacks
    seconds: float  # wall clock of all attempts
    steps: int


class Hits(TypedDict):
    """Which test images a readout got right. Two of them are of the same images if `images` and `labels` are equal."""

    images: int
    labels: str  # 16 digits of the SHA-256 of the images' labels in order
    bits: str  # base64; image i is bit 7 - i % 8 of byte i // 8


class Images(TypedDict):
    """images.json, as `moco.data.seen.Seen` counts: files of all splits together."""

    line: str  # all of it in words
    read: int
    skipped: int  # cannot be read
    one_colour: int
    deep: int  # with levels of 16 bits
    deepest: int | None  # the highest of those levels, of `of`
    of: int
    dim: int  # of the deep ones, those that use less than a quarter of the range
    clear: int  # with an alpha of 0 everywhere, shown without it
    passed_over: dict[str, int]  # ending -> files that were not opened
    loops: int  # links to a folder that holds them
    known_by: str  # contents; names, for runs of before contents were compared; nothing, for a published set


class Cell(TypedDict):
    """One planned run: an arm at a seed."""

    arm: str
    seed: int
    run_id: str
    config: dict[str, Any]  # moco.config.plain.to_plain


class Clause(TypedDict, total=False):
    """One part of what a sweep expects: made by `experiments.plan.expectation`, judged by `analysis.claims`."""

    kind: str  # rises, saturates, fails, diverges, best_between, best_inside, order, adds, adds_most
    arm: str  # fails, diverges
    by: float  # fails: more than so many points under the baseline
    within: float  # saturates: the last step of the axis changes less than so many points
    share: float  # rises, saturates: of the whole rise; see experiments.plan.expectation
    smallest: float  # points: an effect that is shown to be smaller contradicts the clause
    low: float  # best_between: values of the axis
    high: float
    arms: list[str]  # order: best first
    factor: str  # adds, adds_most


class Joined(TypedDict):
    """Seeds that were planned when results of other seeds could be read."""

    seeds: list[int]
    seen: int  # seeds at which two arms had results, so that a difference could be seen
    time: str  # ISO 8601, UTC


class PastArm(TypedDict, total=False):
    """An arm that a plan had and has no more, with all that is needed to bring it back."""

    arm: str
    why: str  # one line: dropped by hand, its config changed, ...
    time: str  # ISO 8601, UTC
    config: dict[str, Any]  # moco.config.plain.to_plain, at any of its seeds
    runs: dict[str, str]  # seed -> run id
    axis_value: float
    levels: dict[str, str]  # factor -> level
    published: float


class PlanEvent(TypedDict, total=False):
    """A line of a plan's history."""

    time: str  # ISO 8601, UTC
    event: str  # renamed, left out (into `past`), brought back
    arm: str  # its name from then on
    was: str  # renamed: its name before
    why: str  # left out: as in PastArm


class Looks(TypedDict):
    """A group-sequential plan: when results are looked at, fixed before any of them."""

    kind: str  # pocock, obrien-fleming
    at: list[int]  # paired seeds, equally far apart


class ManifestExtras(TypedDict, total=False):
    """Optional fields of a manifest; older stores lack them."""

    past: list[PastArm]  # arms that were planned once and stand in no table now
    history: list[PlanEvent]  # what happened to the names of arms, the oldest first
    file: str  # of the sweep, an absolute path: two files of one name must not share a plan

    shape: list[Clause]  # what `claim` says, so that results can be held against it
    factors: dict[str, dict[str, str]]  # arm -> factor -> level, of arms that cross factors
    max_seeds: (
        int  # seeds are added until the answer is clear, up to so many; tables must correct for the repeated tests
    )
    looks: Looks  # seeds are added in these rounds, for which tables must correct
    joined: list[Joined]  # empty: all seeds were planned before any result; older stores lack it and cannot say
    trials: dict[str, int]  # arm -> number of the Optuna trial: this is a search, seen as a sweep
    study: str  # name of its Optuna study
    open: bool  # the search will ask for more runs


class Manifest(ManifestExtras):
    """What a sweep planned. `analysis` compares it with the runs that exist, so that missing runs are shown as missing."""

    store_version: int
    name: str  # queue_size
    label: str  # queue_size@digits,train.epochs=5
    question: str
    claim: str
    metric: str  # the readout that answers the question
    varies: list[str]
    axis: str | None  # the one numeric field that the arms vary, for the figure
    axis_values: dict[str, float]  # arm -> value of the axis
    baseline: str  # name of the arm that the others are compared with
    baseline_config: str  # name in experiments.plan.baselines
    arms: list[str]  # in order, RANDOM_INIT last
    seeds: list[int]
    cells: list[Cell]
    published: dict[str, float]  # arm -> published number, percent
    published_source: str
    command: str
    updated: str  # ISO 8601, UTC


class TrialRecord(TypedDict, total=False):
    """A trial of a search, as its storage has it. A trial is an ordinary run at the base's seed."""

    number: int
    state: str  # done, pruned, failed, running, queued (to be asked once more)
    run_id: str
    config: dict[str, Any]  # moco.config.plain.to_plain
    settings: dict[str, str]  # config field -> value, as typed after --set; the base has all others
    values: list[float] | None  # one per metric, of a done trial
    reported: dict[str, float]  # epoch -> percent, during training
    constraints: dict[str, float]  # name -> measured minus allowed: above 0 breaks it
    hours: float | None  # device-hours of training and readouts
    memory_gb: float | None
    reason: str | None  # why it was pruned or failed
    diverged: bool
    source: str  # drawn; base: the base's own values; again: those of `again_of`; warm start
    again_of: int | None  # number of the trial that lost its worker
    job: str | None
    host: str | None
    started: str | None  # ISO 8601, UTC
    ended: str | None


class SearchExtras(TypedDict, total=False):
    """Optional fields of a search's record; older stores lack them."""

    sampler_options: dict[str, Any]  # arguments of Optuna's sampler, as the search's file gives them


class SearchRecord(SearchExtras):
    """RUNS/searches/<label>.json: the plan of a search and its trials so far. `analysis` reads nothing else of it."""

    store_version: int
    name: str  # search_moco
    label: str  # search_moco@digits
    study: str  # name of the Optuna study: the label, or "<label>~2" after --new-study
    storage: str  # address without password; a journal is named by its file
    question: str
    base: str  # name in experiments.plan.baselines
    base_config: dict[str, Any]
    space: dict[str, dict[str, Any]]  # config field -> experiments.search.space.to_plain
    metrics: list[str]  # readouts of the validation images, and gpu_hours
    directions: list[str]  # "maximize" or "minimize" for each
    limits: dict[str, float]  # constraint -> what is allowed
    sampler: str
    pruner: str
    seed: int  # of the sampler
    budget: int  # finished trials that were asked for, warm ones not counted
    command: str
    trials: list[TrialRecord]
    ranking: list[int]  # numbers of done trials within the limits, the best first, one per run
    front: list[int]  # of those, the Pareto front of the objectives
    importances: dict[str, dict[str, float]]  # metric -> config field -> share of the variance explained
    failure: str | None  # why the workers gave up
    updated: str  # ISO 8601, UTC
