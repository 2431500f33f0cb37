"""One run as MLflow should show it: a pure function of the run directory, so that a lost store can be rebuilt.

    points, curves_csv    the curves: MLflow's points, and the table of all records
    mirror_of             the whole run: params, tags, points, files, data, weights
    MirrorCache           mirrors that are read again only when a file of theirs has changed

Points, once sent, stay valid, and those of a later sync begin with those of an earlier one; so the number of points
sent is all that a sync must remember (`Sent`). That is why a run that may still continue shows its records up to the
last checkpoint only: a resume repeats the later ones.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.state.state import RunState, state_of
from experiments.store import metrics, schema
from experiments.store.images import images_line
from experiments.store.journal import read_journal
from experiments.store.run import RunDirectory
from experiments.store.states import device_seconds
from moco.config import Config
from moco.config.plain import canonical_json, flatten, from_plain

POINTS_PER_KEY = 2_000  # longer histories are thinned: charts show no more, and the UI slows down

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """One value of one metric; all four together are MLflow's primary key, which drops what is sent twice."""

    key: str
    value: float
    time_ms: int
    step: int


def mirrored() -> tuple[str, ...]:
    """The keys of a journal that MLflow gets: documented metrics, those that a run declares among them."""
    return (*schema.METRICS, *schema.SYSTEM_METRICS)


def points(records: Iterable[Record], total_steps: int | None) -> tuple[Point, ...]:
    """The finite values of the documented metrics, thinned to about `POINTS_PER_KEY` for each.

    The steps of a run are divided into that many equal bins, and the first value in each bin is kept, a choice that later
    records cannot change. The last step has a bin of its own. A run with fewer steps than bins keeps all. A key that is
    repeated at one step replaces the earlier value, as in the trainer.
    """
    kept: list[Point] = []
    place: dict[tuple[str, int], int] = {}
    keys = mirrored()
    for record in records:
        step, time_ms = record["step"], round(record["time"] * 1000)
        bin_ = _bin(step, total_steps)
        values = values_of(record)
        for key in keys:
            value = values.get(key)
            if value is None or not math.isfinite(value):
                continue
            index = place.setdefault((key, bin_), len(kept))
            point = Point(key, float(value), time_ms, step)
            if index == len(kept):
                kept.append(point)
            elif kept[index].step == step:
                kept[index] = point
    return tuple(kept)


def values_of(record: Record) -> Mapping[str, Any]:
    """The metrics of a record, and its system metrics."""
    return {**record["values"], **record["system"]} if "system" in record else record["values"]


def _bin(step: int, total_steps: int | None) -> int:
    return step * POINTS_PER_KEY // total_steps if total_steps and total_steps > POINTS_PER_KEY else step


def curves_csv(records: Sequence[Record], most_bytes: int) -> str:
    """All records as a table: step, epoch, time (UTC seconds), then every key in order of appearance.

    An absent value is an empty cell. A table of more than `most_bytes` is thinned to every second row, then every fourth,
    until it fits; the last row stays.
    """
    keys = list(dict.fromkeys(key for record in records for key in values_of(record)))
    rows = [[r["step"], r["epoch"], r["time"], *map(values_of(r).get, keys)] for r in records]
    text, stride = _csv(keys, rows), 1
    while len(text) > most_bytes and stride < len(rows):
        stride *= 2
        text = _csv(keys, rows[:-1:stride] + rows[-1:])
    return text


def _csv(keys: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", "epoch", "time", *keys])
    writer.writerows(rows)
    return out.getvalue()


@dataclass(frozen=True)
class Sent:
    """How many points the store has of a run: a tag there, written together with the points.

    `time_ms` is that of the last point, to check that the journal still begins with what was sent. It does not after
    `--force`, nor where a failed run was sent to its end and then resumed from its checkpoint.
    """

    count: int = 0
    time_ms: int = 0

    @classmethod
    def up_to(cls, points: tuple[Point, ...], count: int) -> Sent:
        return cls(count, points[count - 1].time_ms) if count else cls()

    @classmethod
    def parse(cls, tag: str | None) -> Sent:
        return cls(*map(int, tag.split("@"))) if tag else cls()

    def __str__(self) -> str:
        return f"{self.count}@{self.time_ms}"

    def begins(self, points: tuple[Point, ...]) -> bool:
        return self.count <= len(points) and Sent.up_to(points, self.count) == self


MAX_PARAM, MAX_TAG = 6_000, 8_000  # characters, MLflow's limits
MAX_ARTIFACT_BYTES = 5_000_000

FINISHED, FAILED, KILLED, RUNNING, SCHEDULED = "FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED"
STATUS = {
    schema.RUNNING: RUNNING,
    schema.QUEUED: SCHEDULED,
    schema.DONE: FINISHED,
    schema.FAILED: FAILED,
    schema.LOST: FAILED,
}  # all others are KILLED: cancelled, preempted (until the sweep is started again), pruned by a search
ENDED = (FINISHED, FAILED, KILLED)


@dataclass(frozen=True)
class DataSet:
    name: str
    digest: str
    source_type: str
    source: str


@dataclass(frozen=True)
class Artifact:
    """A file for MLflow: a path, or a function that makes its text. `stamp` changes when the content does."""

    name: str
    stamp: str
    source: Path | Callable[[], str]


@dataclass(frozen=True)
class Weights:
    """The final encoder of a run, and what it takes to use it. image_size in pixels; mean and std for pixels in 0..1."""

    path: Path
    stamp: str
    step: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Mirror:
    """A run as MLflow should show it. `end_ms` is None until the run has ended."""

    name: str
    status: str
    start_ms: int
    end_ms: int | None
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    data: DataSet | None = None
    weights: Weights | None = None
    problems: tuple[str, ...] = ()  # what could not be read, a line each

    def last(self, key: str) -> float | None:
        """The last value of a metric."""
        return next((p.value for p in reversed(self.points) if p.key == key), None)


def mirror_of(runs_root: Path, manifest: schema.Manifest, cell: schema.Cell) -> Mirror | None:
    """The mirror of a planned run, without its note; None until an attempt has begun.

    Raises ValueError for a damaged directory.
    """
    run = RunDirectory(runs_root / cell["run_id"])
    state, (attempts, damaged) = state_of(run.path), run.checked_attempts()
    wrong = tuple(f"{run.path / schema.ATTEMPTS}, line {number}: damaged, left out" for number in damaged)
    if not attempts:
        if wrong:
            raise ValueError(wrong[0])
        return None
    status, config = STATUS.get(state.state, KILLED), from_plain(Config, cell["config"])
    records, problems = _final_records(run, state.state)
    return Mirror(
        name=f"{cell['arm']} seed={cell['seed']}",
        status=status,
        start_ms=milliseconds(attempts[0]["time"]),
        end_ms=_end(run, attempts[-1]) if status in ENDED else None,
        tags=_tags(run, manifest, cell, state, attempts),
        params=_params(config, cell),
        points=points(records, state.total_steps),
        artifacts=_artifacts(run, state.state, with_curves=bool(records)) if status in ENDED else (),
        data=_data_set(config),
        weights=_weights(run.path, config, state) if state.state == schema.DONE else None,
        problems=(*problems, *wrong),
    )


def milliseconds(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)


def _end(run: RunDirectory, last: schema.Attempt) -> int:
    """When the last attempt ended, in milliseconds; one that was killed, at its last heartbeat."""
    if last["event"] == "end":
        return milliseconds(last["time"])
    heartbeat = run.path / schema.HEARTBEAT
    return round(heartbeat.stat().st_mtime * 1000) if heartbeat.exists() else milliseconds(last["time"])


def _final_records(run: RunDirectory, state: str) -> tuple[Sequence[Record], tuple[str, ...]]:
    """The records that no resume will repeat, and the damaged lines of the journal, a message each.

    All records of a failed run count as final: the end of its curves shows why it failed.

    A checkpoint is written after the records up to it and before the next one, so records older than the checkpoint's
    file are final. If clocks disagree and a record is sent too early, `Sent` notices, and the run is sent again.
    """
    path = run.path / schema.JOURNAL
    records, damaged = read_journal(path)
    problems = tuple(f"{path}, line {number}: damaged, left out" for number in damaged)
    if state in (schema.DONE, schema.FAILED, schema.PRUNED):
        return records, problems
    checkpoint = run.path / schema.CHECKPOINT
    committed = checkpoint.stat().st_mtime if checkpoint.exists() else -math.inf
    return [r for r in records if r["time"] <= committed], problems


def _params(config: Config, cell: schema.Cell) -> dict[str, str]:
    """What defines the run. Cosmetic fields are left out: they may differ between attempts, and MLflow sets a param once
    (the artifact config.json has them). `train.seed` is left out because `seed` is there."""
    flat = {"arm": cell["arm"], "seed": cell["seed"], **flatten(config, cosmetic=False)}
    del flat["train.seed"]
    return {key: _text(value)[:MAX_PARAM] for key, value in flat.items() if value not in (None, "")}


def _text(value: Any) -> str:
    """A value as text. Lists are `(0.55, 1.0)`: MLflow's compare page breaks JSON lists into a line for each number."""
    if isinstance(value, list):
        return f"({', '.join(map(_text, value))})"
    return value if isinstance(value, str) else json.dumps(value)


def _tags(
    run: RunDirectory, manifest: schema.Manifest, cell: schema.Cell, state: RunState, attempts: list[schema.Attempt]
) -> dict[str, str]:
    start = next(a for a in reversed(attempts) if a["event"] == "start")
    tags = {
        "moco.run_id": cell["run_id"],
        "moco.sweep": manifest["name"],
        "moco.arm": cell["arm"],
        "moco.seed": str(cell["seed"]),
        "moco.state": state.state,
        "moco.reason": state.reason,
        "moco.diverged": "1" if state.diverged else None,
        "moco.commit": start.get("commit"),
        "moco.uncommitted": start.get("uncommitted"),
        "moco.hardware": start.get("hardware"),
        "moco.images": images_line(run),
        "moco.job": start.get("job"),
        **_spent(run, state, attempts),
        "moco.study": manifest.get("study"),
        "moco.trial": _trial(manifest, cell),
        "moco.run_dir": str(run.path.absolute()),
        "mlflow.source.name": f"sweeps/{manifest['name']}.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": start.get("commit"),
    }
    return {key: value[:MAX_TAG] for key, value in tags.items() if value}


def _spent(run: RunDirectory, state: RunState, attempts: list[schema.Attempt]) -> dict[str, str | None]:
    """Seconds, steps and readout records of results.json as tags, and the device seconds of all attempts."""
    results = (run.results() if state.state == schema.DONE else None) or schema.Results()
    found: dict[str, Any] = {
        "seconds": results.get("seconds"),
        "steps": results.get("steps"),
        "device_seconds": device_seconds(attempts),
    }
    metrics.learn_plain(own := results.get("metrics"))  # before the journal's keys are chosen
    found["readouts"] = own
    return {f"moco.{name}": None if value is None else json.dumps(value) for name, value in found.items()}


def _trial(manifest: schema.Manifest, cell: schema.Cell) -> str | None:
    number = manifest.get("trials", {}).get(cell["arm"])
    return None if number is None else str(number)


def _artifacts(run: RunDirectory, state: str, *, with_curves: bool) -> tuple[Artifact, ...]:
    """The run's small files and the table of its curves. Weights and files that are too large stay where they are
    (tag moco.run_dir)."""
    files = {name: run.path / name for name in schema.RUN_ARTIFACTS}
    sizes = {name: file.stat().st_size for name, file in files.items() if file.exists()}
    found = [Artifact(n, stamp(files[n]), files[n]) for n, size in sizes.items() if 0 < size <= MAX_ARTIFACT_BYTES]
    if with_curves:

        def curves() -> str:  # read again when it is needed: the mirrors of a whole sweep are in memory at a time
            return curves_csv(_final_records(run, state)[0], MAX_ARTIFACT_BYTES)

        found.append(Artifact(schema.CURVES, stamp(run.path / schema.JOURNAL), curves))
    return tuple(found)


def stamp(file: Path) -> str:
    """Changes when the file does: its size and the second it was written."""
    facts = file.stat()
    return f"{facts.st_size}@{int(facts.st_mtime)}"


def digest(artifacts: tuple[Artifact, ...]) -> str:
    """The names and stamps of artifacts in a few characters."""
    text = json.dumps([[a.name, a.stamp] for a in artifacts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _weights(path: Path, config: Config, state: RunState) -> Weights | None:
    file = path / schema.ENCODER
    if not file.exists():
        return None
    side, augment = config.data.image_size, config.augment
    return Weights(file.absolute(), stamp(file), state.total_steps or 0, side, augment.mean, augment.std)


def _data_set(config: Config) -> DataSet:
    """The data set, with a folder's fingerprint as its digest, or the hash of the data's config."""
    data = config.data
    described = json.dumps(json.loads(canonical_json(config))["data"], sort_keys=True)
    digest = data.fingerprint or hashlib.sha256(described.encode()).hexdigest()
    source = f"folder {data.root}" if data.name == "folder" else data.name
    return DataSet(data.name, digest[:16], "local", json.dumps({"uri": source}))


# A process that follows a sweep reads it every few seconds, beside the training. So a directory is read again only when
# one of these files has changed. The journal of a running run is not among them: only what is before its last checkpoint
# is shown.
WHILE_IT_RUNS = (schema.CONFIG, schema.ATTEMPTS, schema.CHECKPOINT, schema.IMAGES)
AT_REST = (*WHILE_IT_RUNS, schema.JOURNAL, schema.HEARTBEAT, schema.ENCODER, *schema.RUN_ARTIFACTS)


@dataclass(frozen=True)
class CachedMirror:
    """The mirror of a run, and the signature of the files it was made from.

    problems: what cannot be shown, a message each.
    """

    state: str
    mirror: Mirror | None
    signature: Hashable
    problems: tuple[str, ...] = ()


@dataclass
class MirrorCache:
    """The mirror of every planned cell, as it was last read, by label, run id and arm."""

    known: dict[tuple[str, str, str], CachedMirror] = field(default_factory=dict)

    def get(self, runs_root: Path, manifest: schema.Manifest, cell: schema.Cell) -> CachedMirror:
        key = (manifest["label"], cell["run_id"], cell["arm"])
        path = runs_root / cell["run_id"]
        state = state_of(path)
        facts = state.state, state.reason, state.diverged, state.total_steps
        signature = (*facts, _files(path, state))
        before = self.known.get(key)
        if before is None or before.signature != signature:
            self.known[key] = _read(runs_root, manifest, cell, state, signature)
        return self.known[key]


def _read(
    runs_root: Path, manifest: schema.Manifest, cell: schema.Cell, state: RunState, signature: Hashable
) -> CachedMirror:
    try:
        mirror = mirror_of(runs_root, manifest, cell)
        return CachedMirror(state.state, mirror, signature, mirror.problems if mirror else ())
    except (ValueError, KeyError, OSError) as error:  # a damaged run hides nothing but itself
        problem = f"{cell['run_id']} ({cell['arm']} seed={cell['seed']}) is not in MLflow: {error}"
        return CachedMirror(state.state, None, signature, (problem,))


def _files(path: Path, state: RunState) -> tuple[Hashable, ...]:
    names = WHILE_IT_RUNS if state.state == schema.RUNNING else AT_REST
    return tuple(_stat(path / name) for name in names)


def _stat(file: Path) -> tuple[int, int] | None:
    try:
        facts = file.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size
