"""What a finished run gains when it is judged once more: records at the end of its journal, then `results.json`.

The journal only grows, and no key is written twice at a step, so what was sent to MLflow stays the beginning of what is to
be sent. A kill at any instant leaves the run done: records that had not reached `results.json` are brought there by the next
look (`known`), and a protocol whose headline is not in the journal is simply run again.
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

from experiments.evaluate.weights import say, weights, weights_file
from experiments.run import provenance
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

if TYPE_CHECKING:
    from moco.data.splits import ImageData


# Protocols looking at a network: its features are extracted once, and all that were asked for share them.


DEFAULT = ("linear", "knn", "few_label")


@dataclass(frozen=True)
class Judgement:
    """Names as in the journal, values in percent where they say top1, map or recall; None does not exist.

    `by_epoch` are the curves of readouts that train. `device` as the config names it.
    """

    values: dict[str, float | None]
    by_epoch: dict[int, dict[str, float | None]]
    seconds: float
    device: str = "auto"

    def last(self) -> dict[str, float | None]:
        """With the end of each curve."""
        ends = {name: value for values in self.by_epoch.values() for name, value in values.items()}
        return self.values | ends


def judgements(
    path: Path, protocols: Sequence[str], base: Config | None = None, device: str | None = None
) -> Iterator[tuple[str, Judgement]]:
    """Each protocol's readouts of the weights at or in `path`, one after the other. Several processes share the work.

    `base` gives the images to a file of another tool; to one of ours, other images than its own. Raises ValueError for a
    path without weights, a file that is not recognised, an unknown protocol; BackboneMovedError for a protocol that changed
    the network, before its readouts are given.
    """
    from moco.distributed import group
    from moco.evaluation.frozen import unmoved
    from moco.evaluation.readouts import curves, features_for, protocol
    from moco.trainer import choose_device

    began = time.monotonic()
    chosen = {name: protocol(name) for name in protocols}
    config, query_of = weights(weights_file(path), base)
    if device is not None:
        config = replace(config, train=replace(config.train, device=device))
    data = images(config.data)
    query = query_of(len(data.classes)).to(choose_device(config.train.device))
    with group(config.train.device):
        features = features_for(list(chosen), query, data, config)
        for name, run in chosen.items():
            with unmoved(query):
                alone, by_epoch = curves(dict(run(features, config.evaluation, config.train.seed)))
            yield name, Judgement(alone, by_epoch, time.monotonic() - began, config.train.device)
            began = time.monotonic()


@lru_cache(maxsize=1)
def images(data: Data) -> ImageData:
    """Loaded once for the runs of a sweep that one process judges."""
    from moco.data import load

    return load(data, say)


def headlines(protocols: Sequence[str]) -> list[str]:
    """The readouts that a table knows, in the order of the protocols."""
    return [metric.key for one in protocols for metric in readouts_of(one)]


LOGGER = logging.getLogger("experiments.evaluate")
GROUPS = ("test", "validation", "readout")
PATIENCE = 60.0  # seconds for whoever writes into the run at the same time


def check_done(path: Path) -> RunDirectory:
    """Raises ValueError for a run that has no weights to judge yet."""
    state = state_of(path)
    if state.state != schema.DONE:
        why = f" ({state.reason})" if state.reason else ""
        raise ValueError(f"{path}: the run is {state.state}{why}; only a finished run can be judged")
    return RunDirectory(path)


def missing(run: RunDirectory, protocols: Sequence[str]) -> list[str]:
    """Those whose first headline the run does not have."""
    has = known(run)
    return [name for name in protocols if f"test/{readouts_of(name)[0].key}" not in has]


def known(run: RunDirectory) -> dict[str, float]:
    """All readouts of a run, as journal and results have them."""
    results: Mapping[str, Any] = run.results() or {}
    of_results = {f"{group}/{name}": value for group in GROUPS for name, value in results.get(group, {}).items()}
    return of_results | {
        name: value for name, value in last_values(run.records()).items() if name.partition("/")[0] in GROUPS
    }


def evaluate_run(
    path: Path, protocols: Sequence[str], device: str | None = None, *, wait: bool = False
) -> dict[str, float | None]:
    """Judge the run by those protocols that it lacks and add what each says as soon as it has; returns the new values.

    Of several processes each computes and rank 0 writes. Raises ValueError for a run that is not done or was trained anew
    meanwhile, Busy if another process judges it; with `wait`, that one is waited for.
    """
    from experiments.run import distributed as ranks

    run = check_done(path)
    with judging(run, wait=wait), _heard(run):
        todo = missing(run, protocols)
        if not todo:
            complete(run)
            return {}
        weights, new = _stamp(run), dict[str, float | None]()
        for name, judged in judgements(path, todo, device=device):
            if ranks.rank() == 0:
                add(run, judged, [name], weights)
            new |= judged.last()
    return new


@contextmanager
def _heard(run: RunDirectory) -> Iterator[None]:
    """The run's log gets what is said meanwhile, and the traceback of an error that is not the user's."""
    with logging_to(run.path / schema.LOG, "moco", LOGGER.name):
        try:
            yield
        except Exception as error:
            if not isinstance(error, ValueError):
                LOGGER.error("%s", traceback.format_exc().rstrip())
            raise


@contextmanager
def judging(run: RunDirectory, *, wait: bool = False) -> Iterator[None]:
    """One process at a time; the kernel frees the lock when it dies. Raises Busy, also for ranks of other commands."""
    from experiments.run import distributed as ranks

    if ranks.rank():
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
    facts = (run.path / schema.ENCODER).stat()
    return facts.st_mtime_ns, facts.st_size


def add(run: RunDirectory, judged: Judgement, protocols: Sequence[str], weights: tuple[int, int]) -> None:
    """The journal first, whole lines and flushed to the disk; then the results, replaced at once."""
    with run.locked(PATIENCE):
        if run.results() is None or _stamp(run) != weights:
            raise ValueError(f"{run.path}: was trained anew while it was judged; nothing was added")
        has = {(record["step"], name) for record in run.records() for name in record["values"]}
        with run.journal() as journal:
            for line in lines(run, judged, protocols):
                line["values"] = {n: v for n, v in line["values"].items() if (line["step"], n) not in has}
                if line["values"]:
                    journal.append(line)
            journal.sync()
        _complete(run)
    LOGGER.info("judged by %s in %.1f s: %s", ", ".join(protocols), judged.seconds, in_words(judged.values, protocols))


def in_words(values: Mapping[str, float | None], protocols: Sequence[str]) -> str:
    """The headlines: `retrieval_map 71.2  retrieval_recall1 93.1`."""
    names = headlines(protocols)
    found = {name: values.get(f"test/{name}") for name in names}
    return "  ".join(f"{name} {value:.1f}" for name, value in found.items() if value is not None)


def lines(run: RunDirectory, judged: Judgement, protocols: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Records as the trainer writes them: curves at the steps after the last, then all else at the last step.

    The headlines come last: a run that has them has everything.
    """
    records = run.records()
    step = (run.results() or schema.Results()).get("steps", max((record["step"] for record in records), default=0))
    epoch = max((record["epoch"] for record in records if record["step"] <= step), default=0.0)
    for number, values in judged.by_epoch.items():
        yield {"step": step + number, "epoch": number, "time": round(time.time(), 3), "values": _existing(values)}
    code = provenance.code()
    made = {
        "protocols": list(protocols),
        "seconds": round(judged.seconds, 3),
        "commit": code.commit,
        "uncommitted": code.uncommitted,
        "host": host(),
        "hardware": hardware(judged.device),
        "job": provenance.job(),
    }
    now = round(time.time(), 3)
    yield {"step": step, "epoch": epoch, "time": now, "values": _existing(judged.values), "judged": made}


def _existing(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def complete(run: RunDirectory) -> None:
    """Bring to the results what a killed process left in the journal alone."""
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
