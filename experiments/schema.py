"""Every name that is written by one room and read by another: files, states, metric keys, readouts, tags.

A run directory is the truth; MLflow and the tables are views of it. `analysis` reads it through these names alone.

    $MOCO_RUNS/
        <run id>/                   one arm x seed, trained once however many sweeps it stands in
            config.json             the resolved config (moco.identity.to_plain)
            status.json             state, reason, step, total_steps, ...; replaced atomically
            attempts.jsonl          one line when an attempt starts, one when it ends
            journal.jsonl           metrics: {"step", "epoch", "time", "values"} or {"resumed_at": step}
            results.json            final readouts: {"test": {...}, "validation": {...}, "seconds": ...}
            checkpoint.pt           everything that resume needs
            encoder.pt              the query encoder at the end
            heartbeat, lock         the heartbeat's mtime is fresh, and the lock held, while a worker lives
            log.txt, environment.json, uncommitted.diff
        sweeps/<name>@<baseline>[,field=value...].json    a sweep as it was planned (see `Manifest`)
        set-aside/<run id>.<time>/  what `--force` replaced: moved here, never deleted
        mlflow.db, mlflow-artifacts/
"""

from __future__ import annotations

from typing import Any, Final, TypedDict

STORE_VERSION: Final = 1

CONFIG, STATUS, ATTEMPTS, JOURNAL = "config.json", "status.json", "attempts.jsonl", "journal.jsonl"
RESULTS, CHECKPOINT, ENCODER, LOG = "results.json", "checkpoint.pt", "encoder.pt", "log.txt"
HEARTBEAT, LOCK, ENVIRONMENT, DIFF = "heartbeat", "lock", "environment.json", "uncommitted.diff"
CANCEL, SET_ASIDE_FOLDER = "cancel", "set-aside"
SWEEPS_FOLDER, MLFLOW_DATABASE, MLFLOW_ARTIFACTS = "sweeps", "mlflow.db", "mlflow-artifacts"

# States of a run. `missing` is never written: there is no run directory yet.
MISSING, QUEUED, RUNNING, PREEMPTED = "missing", "queued", "running", "preempted"
DONE, FAILED, CANCELLED, LOST = "done", "failed", "cancelled", "lost"
STATES: Final = (MISSING, QUEUED, RUNNING, PREEMPTED, DONE, FAILED, CANCELLED, LOST)

STALE_SECONDS: Final = (
    180.0  # without a heartbeat on another machine: 36 missed ones, longer than a shared disk's cache
)

# Readouts of the test split, percent. The order is that of the CSV table.
LINEAR, KNN20, KNN200, FEW_LABEL = "linear_top1", "knn20_top1", "knn200_top1", "few_label_top1"
READOUTS: Final = (LINEAR, KNN20, KNN200, FEW_LABEL)

RANDOM_INIT: Final = "random init"  # the arm that every table has

# Metric keys of the journal that are mirrored to MLflow, grouped by slash. Other keys stay in the journal.
METRICS: Final[dict[str, str]] = {
    "train/loss": "InfoNCE, natural log; mean over the steps since the last record",
    "train/loss_over_chance": "loss / log(K + 1): 1 is learning nothing",
    "train/contrast_top1": "percent of queries whose own key scores highest",
    "train/positive": "mean cosine of a query and its own key",
    "train/gap": "mean positive cosine minus mean negative cosine",
    "train/lr": "learning rate",
    "features/std": "mean per-dimension standard deviation of unit queries x sqrt(dim): 1 is spread evenly, 0 collapsed",
    "features/rank": "effective rank of the queries, exp(entropy of the normalised singular values)",
    "features/alignment": "mean squared distance of two views of one image on the unit sphere (Wang and Isola)",
    "features/uniformity": "log of the mean Gaussian potential of queries (Wang and Isola); lower is more uniform",
    "queue/age": "mean age of the keys in the queue, steps",
    "queue/own_image": "percent of queries whose own image also sits in the queue as a negative",
    "queue/key_drift": "1 - cosine of fixed images' keys now and about one queue turnover ago",
    "speed/images_per_s": "images per second since the last record, evaluation excluded",
    "speed/data_wait": "share of that time spent waiting for data",
    "validation/knn20_top1": "percent, during training, on the images held out of train",
    "test/linear_top1": "percent, at the end; learning rate and weight decay chosen on the validation split",
    "test/knn20_top1": "percent, at the end, k = 20",
    "test/knn200_top1": "percent, at the end, k = 200",
    "test/few_label_top1": "percent, at the end, from a few labels per class",
}

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
}


class Status(TypedDict, total=False):
    """status.json. `experiments.reconcile.state_of` turns it into the true state: a dead worker still says running."""

    state: str
    reason: str | None  # one line: why it failed or stopped
    diverged: bool
    step: int
    total_steps: int
    epoch: float
    images_per_s: float | None
    knn: float | None  # last validation/knn20_top1, percent
    host: str  # of the worker; while queued, of the launcher
    pid: int
    process_started: int | None  # kernel ticks since boot: tells a process from a later one with its pid
    job: str | None  # Slurm job that will run it, runs it or ran it last, "123" or "123_4"
    updated: str  # ISO 8601, UTC


class Attempt(TypedDict, total=False):
    """A line of attempts.jsonl; `event` is "start" or "end". An attempt that was killed gets its end from the next one."""

    event: str
    attempt: int  # from 1
    time: str  # ISO 8601, UTC
    host: str  # start, as are the next six
    pid: int
    process_started: int | None
    hardware: str  # "NVIDIA H100 80GB HBM3" or the CPU's name and the threads used
    commit: str | None
    uncommitted: str | None  # short hash of the diff against that commit, None for a clean tree
    job: str | None  # Slurm job, "123" or "123_4"
    state: str  # end, as are the next three
    reason: str | None
    step: int
    seconds: float  # wall clock of this attempt


class Results(TypedDict, total=False):
    """results.json: its presence is what makes a run done."""

    test: dict[str, float]  # readout -> percent; the names of READOUTS and any other the evaluation gives
    validation: dict[str, float]
    readout: dict[str, float]  # facts about the readouts, such as the chosen learning rate
    seconds: float  # wall clock of all attempts
    steps: int


class Cell(TypedDict):
    """One planned run: an arm at a seed."""

    arm: str
    seed: int
    run_id: str
    config: dict[str, Any]  # moco.identity.to_plain


class Manifest(TypedDict):
    """What a sweep planned; `analysis` compares it with what exists, so that missing stays missing."""

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
    baseline_config: str  # name in experiments.baselines
    arms: list[str]  # in order, RANDOM_INIT last
    seeds: list[int]
    cells: list[Cell]
    published: dict[str, float]  # arm -> published number, percent
    published_source: str
    command: str
    updated: str  # ISO 8601, UTC
