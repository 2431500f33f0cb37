"""Evaluate finished runs by more protocols, and add the readouts to their directories.

    evaluate_weights    evaluates a file of weights; writes nothing
    evaluate_run        evaluates a run by the protocols it lacks, and adds the readouts
    missing, known      what a run lacks, what it has
    evaluating          the lock that lets one process evaluate a run

New readouts are appended to the journal and then written to `results.json`. No key is written twice at one step, so
points that MLflow has stay valid. The run stays done if the process is killed in between: `complete` brings journal
records that are not in `results.json` yet, and a protocol whose headline is not in the journal is run again.
"""

from __future__ import annotations

import fcntl
import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.evaluate.weights import NOTHING_SAID, Reading, say, weights, weights_file
from experiments.run import distributed, provenance
from experiments.run.machine import hardware
from experiments.run.readouts import readouts_of
from experiments.run.stop import logging_to
from experiments.state.state import state_of
from experiments.store import metrics, schema
from experiments.store.files import replace_json
from experiments.store.journal import last_values
from experiments.store.run import Busy, RunDirectory
from experiments.store.states import host
from moco.config import Config, Data
from moco.data.catalog import FOLDER
from moco.evaluation.hits import hits_of

if TYPE_CHECKING:
    from moco.data.splits import ImageData


LOGGER = logging.getLogger("experiments.evaluate")
DEFAULT = ("linear", "knn", "few_label")  # protocols
GROUPS = ("test", "validation", "readout")
PATIENCE = 60.0  # seconds to wait for another process that writes into the run


@dataclass(frozen=True)
class ProtocolReadouts:
    """The readouts of one protocol.

    values: names as in the journal; percent where the name says top1, map or recall; None where it does not exist.
    by_epoch: the curves of protocols that train. device: as the config names it. A top-1 of the test split may be a
    `moco.evaluation.hits.TopOne`, whose hits are then stored too.
    """

    values: dict[str, float | None]
    by_epoch: dict[int, dict[str, float | None]]
    seconds: float
    device: str = "auto"

    def last(self) -> dict[str, float | None]:
        """The values, and the end of each curve."""
        ends = {name: value for values in self.by_epoch.values() for name, value in values.items()}
        return self.values | ends


def evaluate_weights(
    path: Path,
    protocols: Sequence[str],
    base: Config | None = None,
    device: str | None = None,
    reading: Reading = NOTHING_SAID,
    moved_to: Path | None = None,
) -> Iterator[tuple[str, ProtocolReadouts]]:
    """Yield each protocol with its readouts of a file of weights or a run directory. Several processes share the work.

    The features are extracted once for all protocols. base: the config whose images are used, needed for a file of
    another tool; reading: what the user says about the file; moved_to: where its own images are now. Raises ValueError for
    a path without weights, a file that is not recognised, other images in `moved_to` and an unknown protocol,
    and BackboneMovedError instead of the readouts of a protocol that changed the network.
    """
    from moco.distributed import group
    from moco.evaluation.frozen import unmoved
    from moco.evaluation.readouts import curves, features_for, protocol
    from moco.trainer import choose_device

    began = time.monotonic()
    chosen = {name: protocol(name) for name in protocols}
    config, query_of = weights(weights_file(path), base, reading)
    if device is not None:
        config = replace(config, train=replace(config.train, device=device))
    if base is None:
        config = replace(config, data=_own_images(config.data, moved_to))
    data = images(config.data)
    query = query_of(len(data.classes)).to(choose_device(config.train.device))
    with group(config.train.device):
        features = features_for(list(chosen), query, data, config)
        for name, run in chosen.items():
            with unmoved(query):
                values, by_epoch = curves(dict(run(features, config.evaluation, config.train.seed)))
            yield name, ProtocolReadouts(values, by_epoch, time.monotonic() - began, config.train.device)
            began = time.monotonic()


def _own_images(data: Data, moved_to: Path | None) -> Data:
    """The images that the network was trained on, at the place where they are now; whether they are the same is checked
    when they are loaded. Raises ValueError where that could not be told, and for a folder that is gone."""
    if moved_to is None:
        if data.name == FOLDER and data.root and not Path(data.root).exists():
            raise ValueError(
                f"data.root = {data.root}: not there any more; if the images have moved, add --set data.root=DIR"
            )
        return data
    if data.name == FOLDER and not data.fingerprint:
        raise ValueError(
            f"--set data.root={moved_to}: the config has no fingerprint that would tell its images from others"
        )
    return replace(data, root=str(moved_to))


@lru_cache(maxsize=1)
def images(data: Data) -> ImageData:
    """The images; loaded once for all runs of a sweep that one process evaluates."""
    from moco.data import load

    return load(data, say)


def headlines(protocols: Sequence[str]) -> list[str]:
    """The readouts of these protocols that tables show, in the order of the protocols."""
    return [metric.key for name in protocols for metric in readouts_of(name)]


def check_done(path: Path) -> RunDirectory:
    """The run directory. Raises ValueError for a run that is not done: it has no final weights yet."""
    state = state_of(path)
    if state.state != schema.DONE:
        why = f" ({state.reason})" if state.reason else ""
        raise ValueError(f"{path}: the run is {state.state}{why}; only a finished run can be judged")
    return RunDirectory(path)


def missing(run: RunDirectory, protocols: Sequence[str]) -> list[str]:
    """The protocols whose first headline the run does not have."""
    has = known(run)
    return [name for name in protocols if f"test/{readouts_of(name)[0].key}" not in has]


def known(run: RunDirectory) -> dict[str, float]:
    """All readouts of a run, from its results and its journal."""
    results: Mapping[str, Any] = run.results() or {}
    of_results = {f"{group}/{name}": value for group in GROUPS for name, value in results.get(group, {}).items()}
    return of_results | {
        name: value for name, value in last_values(run.records()).items() if name.partition("/")[0] in GROUPS
    }


def evaluate_run(
    path: Path,
    protocols: Sequence[str],
    device: str | None = None,
    moved_to: Path | None = None,
    *,
    wait: bool = False,
) -> dict[str, float | None]:
    """Evaluate the run by the protocols that it lacks, and add the readouts of each as soon as they are there.

    Returns the new values. Of several processes all compute and rank 0 writes. Raises ValueError for a run that is not
    done or was trained again meanwhile, and for images in `moved_to` that are not its own, and Busy if another process
    evaluates it; `wait` waits for that one instead.
    """
    run = check_done(path)
    with evaluating(run, wait=wait), _logged(run):
        todo = missing(run, protocols)
        if not todo:
            complete(run)
            return {}
        stamp, new = _stamp(run), dict[str, float | None]()
        for name, evaluation in evaluate_weights(path, todo, device=device, moved_to=moved_to):
            if distributed.rank() == 0:
                add_readouts(run, evaluation, [name], stamp)
            new |= evaluation.last()
    return new


@contextmanager
def _logged(run: RunDirectory) -> Iterator[None]:
    """Write log messages to the run's log, and the traceback of an error that is not the user's."""
    with logging_to(run.path / schema.LOG, "moco", LOGGER.name):
        try:
            yield
        except Exception as error:
            if not isinstance(error, ValueError):
                LOGGER.error("%s", traceback.format_exc().rstrip())
            raise


@contextmanager
def evaluating(run: RunDirectory, *, wait: bool = False) -> Iterator[None]:
    """Hold the run's evaluation lock: one command at a time, of whose ranks rank 0 holds it. Raises Busy.

    The kernel frees the lock when the process dies. wait: for another command, instead of Busy.
    """
    if distributed.rank():
        yield
        return
    try:
        file = (run.path / schema.JUDGING).open("a")
    except OSError as error:
        raise ValueError(
            f"{run.path}: {error.strerror}: nothing can be added to the run; evaluate its {schema.ENCODER}, which only prints"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Busy(f"{run.path}: another process judges it") from None
        yield


def _stamp(run: RunDirectory) -> tuple[int, int]:
    """Changes when the run's weights are written again."""
    facts = (run.path / schema.ENCODER).stat()
    return facts.st_mtime_ns, facts.st_size


def add_readouts(
    run: RunDirectory, evaluation: ProtocolReadouts, protocols: Sequence[str], stamp: tuple[int, int]
) -> None:
    """Append to the journal, flushed to the disk; then replace the results in one step.

    Raises ValueError if the run was trained again since `stamp` was taken.
    """
    with run.locked(PATIENCE):
        if run.results() is None or _stamp(run) != stamp:
            raise ValueError(f"{run.path}: was trained anew while it was judged; nothing was added")
        run.add_hits(hits_of(evaluation.values))
        has = {(record["step"], name) for record in run.records() for name in record["values"]}
        with run.journal() as journal:
            for line in lines(run, evaluation, protocols):
                line["values"] = {n: v for n, v in line["values"].items() if (line["step"], n) not in has}
                if line["values"]:
                    journal.append(line)
            journal.sync()
        _complete(run)
    LOGGER.info(
        "judged by %s in %.1f s: %s",
        ", ".join(protocols),
        evaluation.seconds,
        headline_text(evaluation.values, protocols),
    )


def headline_text(values: Mapping[str, float | None], protocols: Sequence[str]) -> str:
    """The headlines as text: `retrieval_map 71.2  retrieval_recall1 93.1`."""
    names = headlines(protocols)
    found = {name: values.get(f"test/{name}") for name in names}
    return "  ".join(f"{name} {value:.1f}" for name, value in found.items() if value is not None)


def lines(run: RunDirectory, evaluation: ProtocolReadouts, protocols: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Journal records in the trainer's format: curves at the steps after the last one, then all else at the last step.

    The headlines are in the last record, so a run that has them has everything.
    """
    records = run.records()
    step = (run.results() or schema.Results()).get("steps", max((record["step"] for record in records), default=0))
    epoch = max((record["epoch"] for record in records if record["step"] <= step), default=0.0)
    for number, values in evaluation.by_epoch.items():
        yield {"step": step + number, "epoch": number, "time": round(time.time(), 3), "values": _existing(values)}
    code = provenance.code()
    made = {
        "protocols": list(protocols),
        "seconds": round(evaluation.seconds, 3),
        "commit": code.commit,
        "uncommitted": code.uncommitted,
        "host": host(),
        "hardware": hardware(evaluation.device),
        "job": provenance.job(),
    }
    now = round(time.time(), 3)
    yield {"step": step, "epoch": epoch, "time": now, "values": _existing(evaluation.values), "judged": made}


def _existing(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def complete(run: RunDirectory) -> None:
    """Add to the results what a killed process had written to the journal only."""
    results: Mapping[str, Any] = run.results() or {}
    if any(name not in results.get(group, {}) for group, name in map(_parts, known(run))):
        with run.locked(PATIENCE):
            _complete(run)


def _complete(run: RunDirectory) -> None:
    results: dict[str, Any] = dict(run.results() or {})
    for group in GROUPS:
        results[group] = dict(results.get(group, {}))
    for name, value in known(run).items():
        group, readout = _parts(name)
        results[group].setdefault(readout, value)
    if records := metrics.unshipped(results["test"]):
        results["metrics"] = records
    replace_json(run.path / schema.RESULTS, results, sync=True)


def _parts(name: str) -> tuple[str, str]:
    group, _, readout = name.partition("/")
    return group, readout
