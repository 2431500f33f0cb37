"""`push`: make one run in MLflow equal to its mirror, by writing the difference.

A kill at any point is repaired by the next sync: params and tags are compared, points are sent in batches together with
their count, and files and the model have a stamp that is set after they are written.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.tracking.mirror import ENDED, Artifact, Mirror, Sent, digest
from experiments.tracking.model import TAG as MODEL
from experiments.tracking.model import push_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

BATCH = 900  # metrics in one request; the server's limit is 1000 metrics, tags and params together
MAX_PARAMS, MAX_TAGS = 100, 100  # in one request
SENT, FILES = "moco.sent", "moco.files"
BOOKKEEPING = (SENT, FILES, MODEL)  # written with what they count, not with the other tags
OURS = ("moco.", "best.", "importance.")  # tags with these prefixes are deleted when the mirror has them no more


@dataclass
class Tally:
    """What a sync has written so far."""

    runs: set[str] = field(default_factory=set)  # MLflow ids of the runs that were written to
    points: int = 0
    warnings: list[str] = field(default_factory=list)


def push(client: MlflowClient, experiment: str, mirror: Mirror, run: Run | None, tally: Tally) -> str:
    """Make one MLflow run equal to its mirror, and return its id.

    run: what MLflow has, None to create it. A run whose points are not the beginning of the journal's is replaced.
    """
    if run is not None and not _continues(run, mirror):
        client.delete_run(run.info.run_id)
        run = None
    if run is None:
        run = client.create_run(experiment, start_time=mirror.start_ms, tags=mirror.tags, run_name=mirror.name)
        tally.runs.add(run.info.run_id)
    _push_data(client, run, mirror, tally)
    _push_points(client, run, mirror, tally)
    _push_files(client, run, mirror, tally)
    if push_model(client, experiment, run, mirror):
        tally.runs.add(run.info.run_id)
    _push_status(client, run, mirror, tally)
    return str(run.info.run_id)


def _continues(run: Run, mirror: Mirror) -> bool:
    same_start = run.info.start_time == mirror.start_ms
    return same_start and Sent.parse(run.data.tags.get(SENT)).begins(mirror.points)


def _push_data(client: MlflowClient, run: Run, mirror: Mirror, tally: Tally) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

    id, has = run.info.run_id, run.data
    params = [Param(k, v) for k, v in mirror.params.items() if k not in has.params]
    tags = [RunTag(k, v) for k, v in mirror.tags.items() if has.tags.get(k) != v]
    old = [k for k in has.tags if k.startswith(OURS) and k not in BOOKKEEPING and k not in mirror.tags]
    for first in range(0, len(params), MAX_PARAMS):
        client.log_batch(id, params=params[first : first + MAX_PARAMS])
    for first in range(0, len(tags), MAX_TAGS):
        client.log_batch(id, tags=tags[first : first + MAX_TAGS])
    for key in old:
        client.delete_tag(id, key)
    if mirror.data is not None and not (run.inputs and run.inputs.dataset_inputs):
        data = Dataset(mirror.data.name, mirror.data.digest, mirror.data.source_type, mirror.data.source)
        client.log_inputs(id, datasets=[DatasetInput(data, [InputTag("mlflow.data.context", "train")])])
    if params or tags or old:
        tally.runs.add(id)


def _push_points(client: MlflowClient, run: Run, mirror: Mirror, tally: Tally) -> None:
    """Send the points that are missing. MLflow writes a batch's points before the count in its tag; after a kill in
    between, the batch is sent again, and the store drops it since a point is its own primary key."""
    from mlflow.entities import Metric, RunTag

    sent = Sent.parse(run.data.tags.get(SENT)).count
    while sent < len(mirror.points):
        batch = mirror.points[sent : sent + BATCH]
        sent += len(batch)
        client.log_batch(
            run.info.run_id,
            metrics=[Metric(p.key, p.value, p.time_ms, p.step) for p in batch],
            tags=[RunTag(SENT, str(Sent.up_to(mirror.points, sent)))],
        )
        tally.points += len(batch)
        tally.runs.add(run.info.run_id)


def _push_files(client: MlflowClient, run: Run, mirror: Mirror, tally: Tally) -> None:
    """Called before `_push_status`, so that a run that has ended in MLflow has its files."""
    if not mirror.artifacts or run.data.tags.get(FILES) == digest(mirror.artifacts):
        return
    for artifact in mirror.artifacts:
        _upload(client, run.info.run_id, artifact)
    client.set_tag(run.info.run_id, FILES, digest(mirror.artifacts))
    tally.runs.add(run.info.run_id)


def _upload(client: MlflowClient, id: str, artifact: Artifact) -> None:
    if isinstance(artifact.source, Path):
        client.log_artifact(id, str(artifact.source))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / artifact.name
        file.write_text(artifact.source())
        client.log_artifact(id, str(file))


def _push_status(client: MlflowClient, run: Run, mirror: Mirror, tally: Tally) -> None:
    """A run that continues keeps the end time it once had: MLflow cannot remove it."""
    ended = mirror.status in ENDED
    if run.info.status == mirror.status and (not ended or run.info.end_time == mirror.end_ms):
        return
    tally.runs.add(run.info.run_id)
    if ended:
        client.set_terminated(run.info.run_id, status=mirror.status, end_time=mirror.end_ms)
    else:
        client.update_run(run.info.run_id, status=mirror.status)
