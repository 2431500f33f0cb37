"""What MLflow is to hold of one run: a pure function of the run directory, so a lost store can be built again, equal.

Only records that a resume cannot make void are shown: while a run may still go on, those up to its last checkpoint.
So a point, once sent, stays true, and the points of a later look begin with those of an earlier one. How many were
sent is all that a sync has to remember.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments import schema
from experiments.reconcile import RunState, state_of
from experiments.run_directory import RunDirectory
from experiments.tracking_notes import run_note
from moco.config import Config
from moco.identity import canonical_json, flatten, from_plain

POINTS_PER_KEY = 2_000  # a longer history is thinned: charts show no more, and the UI slows down
MAX_PARAM, MAX_TAG = 6_000, 8_000  # characters, MLflow's limits
ARTIFACTS = (schema.CONFIG, schema.LOG, schema.ENVIRONMENT, schema.DIFF, schema.RESULTS)
MAX_ARTIFACT_BYTES = 5_000_000

FINISHED, FAILED, KILLED, RUNNING, SCHEDULED = "FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED"
STATUS = {
    schema.RUNNING: RUNNING,
    schema.QUEUED: SCHEDULED,
    schema.DONE: FINISHED,
    schema.FAILED: FAILED,
    schema.LOST: FAILED,
    schema.CANCELLED: KILLED,
    schema.PREEMPTED: KILLED,  # stopped with everything saved; it runs again when the sweep is started again
    schema.MISSING: KILLED,
}
ENDED = (FINISHED, FAILED, KILLED)


@dataclass(frozen=True)
class Point:
    """One value of one metric; all four together are MLflow's primary key, which drops what is sent twice."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class DataSet:
    name: str
    digest: str
    source_type: str
    source: str


@dataclass(frozen=True)
class Mirror:
    """One run of MLflow, as it should be. `end_ms` is None while it has not ended."""

    name: str
    status: str
    start_ms: int
    end_ms: int | None
    params: dict[str, str]
    tags: dict[str, str]
    points: tuple[Point, ...]
    artifacts: tuple[Path, ...]
    data: DataSet | None


def mirror_of(runs_root: Path, manifest: schema.Manifest, cell: schema.Cell) -> Mirror | None:
    """The mirror of a planned run; None until an attempt has begun. Raises ValueError for a damaged directory."""
    run = RunDirectory(runs_root / cell["run_id"])
    state, attempts = state_of(run.path), run.attempts()
    if not attempts:
        return None
    status = STATUS[state.state]
    config = from_plain(Config, cell["config"])
    return Mirror(
        name=f"{cell['arm']} seed={cell['seed']}",
        status=status,
        start_ms=milliseconds(attempts[0]["time"]),
        end_ms=_end(run, attempts[-1]) if status in ENDED else None,
        params=_params(config, cell),
        tags=_tags(run, manifest, cell, state, attempts),
        points=points(_final_records(run, state.state), state.total_steps),
        artifacts=_small_files(run.path),
        data=_data_set(config),
    )


def milliseconds(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)


def _end(run: RunDirectory, last: schema.Attempt) -> int:
    """When the last attempt ended; one that was killed lived until its last heartbeat."""
    if last["event"] == "end":
        return milliseconds(last["time"])
    heartbeat = run.path / schema.HEARTBEAT
    return round(heartbeat.stat().st_mtime * 1000) if heartbeat.exists() else milliseconds(last["time"])


def _final_records(run: RunDirectory, state: str) -> list[dict[str, Any]]:
    """The records that no resume will repeat.

    A checkpoint becomes current after its records are in the journal and before the next one is made, so the time of
    the file parts them. Should clocks disagree, a record sent too early is found out by `Sent`: the run is sent anew.
    """
    records = run.records()
    if state in (schema.DONE, schema.FAILED):  # of a failed run, the end of its curves is what one wants to see
        return records
    checkpoint = run.path / schema.CHECKPOINT
    committed = checkpoint.stat().st_mtime if checkpoint.exists() else -math.inf
    return [r for r in records if r["time"] <= committed]


def points(records: Iterable[Mapping[str, Any]], total_steps: int | None) -> tuple[Point, ...]:
    """The finite values of the documented metrics, thinned to about `POINTS_PER_KEY` for each.

    A run's steps fall in that many equal bins and the first value of a bin is kept, and the last step's: a choice that
    later records cannot change. A run with fewer steps than bins keeps all. A key repeated at one step replaces the
    earlier one, as the trainer has it.
    """
    kept: list[Point] = []
    place: dict[tuple[str, int], int] = {}
    for record in records:
        step, time_ms = record["step"], round(record["time"] * 1000)
        bin_ = step * POINTS_PER_KEY // total_steps if total_steps and total_steps > POINTS_PER_KEY else step
        for key in schema.METRICS:
            value = record["values"].get(key)
            if value is None or not math.isfinite(value):
                continue
            index = place.setdefault((key, bin_), len(kept))
            point = Point(key, float(value), time_ms, step)
            if index == len(kept):
                kept.append(point)
            elif kept[index].step == step:
                kept[index] = point
    return tuple(kept)


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
        "moco.job": start.get("job"),
        "moco.run_dir": str(run.path.absolute()),
        "mlflow.source.name": f"sweeps/{manifest['name']}.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": start.get("commit"),
        "mlflow.note.content": run_note(manifest, cell),
    }
    return {key: value[:MAX_TAG] for key, value in tags.items() if value}


def _small_files(path: Path) -> tuple[Path, ...]:
    """Checkpoints and weights stay where they are (tag moco.run_dir)."""
    files = (path / name for name in ARTIFACTS)
    return tuple(f for f in files if f.exists() and 0 < f.stat().st_size <= MAX_ARTIFACT_BYTES)


def _data_set(config: Config) -> DataSet:
    """The digest tells apart what is trained on: a folder's own fingerprint, else that of the data's description."""
    data = config.data
    described = json.dumps(json.loads(canonical_json(config))["data"], sort_keys=True)
    digest = data.fingerprint or hashlib.sha256(described.encode()).hexdigest()
    source = f"folder {data.root}" if data.name == "folder" else data.name
    return DataSet(data.name, digest[:16], "local", json.dumps({"uri": source}))


@dataclass(frozen=True)
class Sent:
    """How much of a run has reached the store, kept there in one tag, written with the points themselves.

    `time_ms` of the last point proves that the journal still begins with what was sent. It does not after `--force`, or
    when a failed run was sent to its end and then tried again from its checkpoint.
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
