"""What MLflow is to hold of one run: a pure function of the run directory, so a lost store can be built again, equal.

Only records that a resume cannot make void are shown: while a run may still go on, those up to its last checkpoint
(`tracking.points` says why that makes a sync repeatable).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments import schema
from experiments.reconcile import RunState, state_of
from experiments.run_directory import RunDirectory
from experiments.states import device_seconds
from experiments.tracking.points import Point, Record, curves_csv, points, read_journal
from moco.config import Config
from moco.identity import canonical_json, flatten, from_plain

MAX_PARAM, MAX_TAG = 6_000, 8_000  # characters, MLflow's limits
MAX_ARTIFACT_BYTES = 5_000_000

FINISHED, FAILED, KILLED, RUNNING, SCHEDULED = "FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED"
STATUS = {
    schema.RUNNING: RUNNING,
    schema.QUEUED: SCHEDULED,
    schema.DONE: FINISHED,
    schema.FAILED: FAILED,
    schema.LOST: FAILED,
}  # all others, KILLED: cancelled, preempted (to go on when the sweep is started again), pruned by a search
ENDED = (FINISHED, FAILED, KILLED)


@dataclass(frozen=True)
class DataSet:
    name: str
    digest: str
    source_type: str
    source: str


@dataclass(frozen=True)
class Artifact:
    """A file for MLflow: one that exists, or text that is made when it is needed. `stamp` changes when it does."""

    name: str
    stamp: str
    source: Path | Callable[[], str]


@dataclass(frozen=True)
class Weights:
    """The final encoder of a run, and what it takes to use it. Sides in pixels; mean and std of a pixel in 0..1."""

    path: Path
    stamp: str
    step: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Mirror:
    """One run of MLflow, as it should be. `end_ms` is None while it has not ended."""

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
    state, attempts = state_of(run.path), run.attempts()
    if not attempts:
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
        problems=problems,
    )


def milliseconds(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)


def _end(run: RunDirectory, last: schema.Attempt) -> int:
    """When the last attempt ended; one that was killed lived until its last heartbeat."""
    if last["event"] == "end":
        return milliseconds(last["time"])
    heartbeat = run.path / schema.HEARTBEAT
    return round(heartbeat.stat().st_mtime * 1000) if heartbeat.exists() else milliseconds(last["time"])


def _final_records(run: RunDirectory, state: str) -> tuple[list[Record], tuple[str, ...]]:
    """The records that no resume will repeat, and what is wrong with the journal. Of a failed run these are all: the end
    of its curves is what one wants to see.

    A checkpoint becomes current after its records are in the journal and before the next one is made, so the time of
    the file parts them. Should clocks disagree, a record sent too early is found out by `Sent`: the run is sent anew.
    """
    records, problems = read_journal(run.path / schema.JOURNAL)
    if state in (schema.DONE, schema.FAILED, schema.PRUNED):
        return records, problems
    checkpoint = run.path / schema.CHECKPOINT
    committed = checkpoint.stat().st_mtime if checkpoint.exists() else -math.inf
    return [r for r in records if r["time"] <= committed], problems


def _params(config: Config, cell: schema.Cell) -> dict[str, str]:
    """What defines the run. Cosmetic fields stay out: they may differ between attempts, and a param is set only once
    (the artifact config.json has them). So does `train.seed`, which is `seed`."""
    flat = {"arm": cell["arm"], "seed": cell["seed"], **flatten(config, cosmetic=False)}
    del flat["train.seed"]
    return {key: _text(value)[:MAX_PARAM] for key, value in flat.items() if value not in (None, "")}


def _text(value: Any) -> str:
    """Lists as `(0.55, 1.0)`: what reads as JSON, the compare page breaks into a line for each number."""
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
    """What a reader would have to fetch results.json for, and what all attempts took."""
    results = (run.results() if state.state == schema.DONE else None) or schema.Results()
    found = {
        "seconds": results.get("seconds"),
        "steps": results.get("steps"),
        "device_seconds": device_seconds(attempts),
    }
    return {f"moco.{name}": None if value is None else json.dumps(value) for name, value in found.items()}


def _trial(manifest: schema.Manifest, cell: schema.Cell) -> str | None:
    number = manifest.get("trials", {}).get(cell["arm"])
    return None if number is None else str(number)


def _artifacts(run: RunDirectory, state: str, *, with_curves: bool) -> tuple[Artifact, ...]:
    """Checkpoints and weights stay where they are (tag moco.run_dir), and so does a file that is too large."""
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
    """The digest tells apart what is trained on: a folder's own fingerprint, else that of the data's description."""
    data = config.data
    described = json.dumps(json.loads(canonical_json(config))["data"], sort_keys=True)
    digest = data.fingerprint or hashlib.sha256(described.encode()).hexdigest()
    source = f"folder {data.root}" if data.name == "folder" else data.name
    return DataSet(data.name, digest[:16], "local", json.dumps({"uri": source}))
