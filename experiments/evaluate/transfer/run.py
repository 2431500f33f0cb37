"""One encoder through one job; a finished run keeps a record of it in `RUN/transfer/`."""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.evaluate.transfer.spec import Job, record_file
from experiments.evaluate.weights import NOTHING_SAID, Reading, architecture, weights, weights_file
from experiments.run import provenance
from experiments.run.machine import hardware
from experiments.store import schema
from experiments.store.files import now, read_json, replace_json
from experiments.store.run import Busy
from experiments.store.states import host
from moco.config import Classifier, Config

if TYPE_CHECKING:
    from moco.encoders import Encoder
    from moco.transfer.samples import Split

MEASURED = 64  # images for the statistics of an untrained encoder

Say = Callable[[str], None]
Scores = dict[str, float | None]


@dataclass(frozen=True)
class Source:
    """An encoder: of a run or a file, or one that was never trained."""

    path: Path
    base: Config | None = None  # pixel statistics for a file of another tool
    untrained: bool = False
    seed: int | None = None  # of the fine-tuning; None is the seed that the weights were trained with
    reading: Reading = NOTHING_SAID  # what the user says about a file


def run_job(source: Source, job: Job, say: Say, kept: Path | None = None) -> Scores:
    """Readouts in percent; None does not exist. Raises ValueError for weights, data or a recipe that do not fit."""
    from moco.trainer import choose_device
    from moco.transfer.tasks import Pixels, transfer

    config, encoder = encoder_of(source)
    train, held_out = splits_of(job)
    pixels = Pixels(config.augment.mean, config.augment.std)
    seed = config.train.seed if source.seed is None else source.seed
    if source.untrained:
        encoder = untrained(weights_file(source.path), config, train, source.reading)
    return transfer(
        encoder,
        train,
        held_out,
        job.recipe,
        pixels,
        seed,
        choose_device(job.device),
        say,
        workers=job.workers,
        kept=kept,
    )


def encoder_of(source: Source) -> tuple[Config, Encoder]:
    """Without the head, whatever classes it knows."""
    config, query_of = weights(weights_file(source.path), source.base, source.reading)
    if isinstance(config.head, Classifier):
        config, query_of = weights(weights_file(source.path), config, source.reading)
    return config, query_of(0).encoder


@lru_cache(maxsize=1)
def splits_of(job: Job) -> tuple[Split, Split]:
    """Opened once for all runs of a process."""
    from moco.transfer.data import splits

    return splits(job.recipe, Path(job.root) if job.root else None, job.on)


def untrained(file: Path, config: Config, train: Split, reading: Reading = NOTHING_SAID) -> Encoder:
    """The file's own architecture, with the weights that a run of this config and architecture starts from.

    BatchNorm's statistics are those of some training images.
    """
    from moco.augment import normalise
    from moco.batchnorm import measure_statistics, normalise_batch_at_hand
    from moco.encoders import build_encoder
    from moco.model import seeded

    kind, side = architecture(file, config, reading)
    with seeded(config.train.seed, "encoder"):
        encoder = build_encoder(kind, side)
    images = [train[row].image_3HW[None].contiguous() for row in range(min(len(train), MEASURED))]
    normalise_batch_at_hand(encoder)
    measure_statistics(encoder, [normalise(image_13HW, config.augment) for image_13HW in images])
    return encoder


def record_of(run: Path, job: Job) -> dict[str, Any] | None:
    """What the run has of this job; None if it has nothing, was trained anew since, or was judged on other data."""
    record: dict[str, Any] | None = read_json(record_file(run, job))
    if record is None or record["encoder"] != _stamp(run):
        return None
    data = data_of(job)  # records of the scenes say no fingerprints if they are old, and there are none to say
    same = record.get("images") == data["images"] and record.get("fingerprints", [None] * 2) == data["fingerprints"]
    return record if same else None


def data_of(job: Job) -> dict[str, list[Any]]:
    """What was learned from and what was judged on, wherever it lies: a root that was moved is the same data."""
    splits = splits_of(job)
    return {"images": [len(split) for split in splits], "fingerprints": [split.fingerprint for split in splits]}


def run_recorded(run: Path, job: Job, say: Say) -> Scores:
    """`run_job` for a finished run, unless it has the record already. A long one goes on from its checkpoint.

    A checkpoint is of one job, encoder and data: where any of them is another, it is not taken up. Raises Busy if another
    process is at the same job of the run.
    """
    if (record := record_of(run, job)) is not None:
        return _scores(record)
    with fine_tuning(run, job):
        if (record := record_of(run, job)) is not None:  # whoever had the lock has just written it
            return _scores(record)
        return _recorded(run, job, say)


def _scores(record: dict[str, Any]) -> Scores:
    scores: Scores = record["scores"]
    return scores


@contextmanager
def fine_tuning(run: Path, job: Job) -> Iterator[None]:
    """One process at a time; the kernel frees the lock when it dies. Raises ValueError where nothing can be written."""
    lock = record_file(run, job).with_suffix(".lock")
    try:
        lock.parent.mkdir(exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        raise ValueError(
            f"{lock.parent}: {error.strerror}: the run can keep no record; fine-tune its {schema.ENCODER}, which only prints"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{run}: another process is at {job.words} with it") from None
        yield


def _recorded(run: Path, job: Job, say: Say) -> Scores:
    stamp, data, file, began = _stamp(run), data_of(job), record_file(run, job), time.monotonic()
    kept = None if job.recipe.data == "scenes" else checkpoint_file(file, stamp, data)
    scores = run_job(Source(run), job, say, kept)
    made = provenance.code()
    replace_json(
        file,
        {
            "task": job.recipe.task,
            "data": job.recipe.data,
            "on": job.on,
            "scores": scores,
            "recipe": asdict(job.recipe),
            **data,
            "seconds": round(time.monotonic() - began, 1),
            "encoder": stamp,
            "time": now(),
            "commit": made.commit,
            "uncommitted": made.uncommitted,
            "host": host(),
            "hardware": hardware(job.device),
        },
    )
    if kept is not None:
        kept.unlink(missing_ok=True)
    return scores


def checkpoint_file(record: Path, stamp: list[int], data: dict[str, list[Any]]) -> Path:
    plain = hashlib.sha256(json.dumps([stamp, data], sort_keys=True).encode()).hexdigest()
    return record.with_name(f"{record.stem}-{plain[:8]}.pt")


def _stamp(run: Path) -> list[int]:
    facts = weights_file(run).stat()
    return [facts.st_mtime_ns, facts.st_size]
