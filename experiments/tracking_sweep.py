"""One sweep to one MLflow experiment: the store is compared with what it is to hold, and the difference is written.

Every step can be cut short by a kill and is finished by the next sync: runs are found by their tags, params and tags
are compared, and points are sent in batches that carry their own count.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import schema
from experiments.durable import exclusive
from experiments.tracking_mirror import ENDED, FAILED, FINISHED, KILLED, RUNNING, SCHEDULED, Mirror, Sent, mirror_of
from experiments.tracking_notes import sweep_note
from experiments.tracking_store import experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

BATCH = 900  # metrics in one request; the server's limit is 1000 metrics, tags and params together
MAX_PARAMS = 100  # in one request
SENT, PARENT, NOTE = "moco.sent", "mlflow.parentRunId", "mlflow.note.content"
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}  # opens in the training view, not the GenAI one

Key = tuple[str, str]  # run id, arm


@dataclass
class Tally:
    """What a sync did."""

    runs: set[str] = field(default_factory=set)  # MLflow ids of the runs that were written to
    points: int = 0
    warnings: list[str] = field(default_factory=list)


def mirror_sweep(client: MlflowClient, runs_root: Path, manifest: schema.Manifest, tally: Tally) -> None:
    """Bring the experiment named after the sweep's label up to date.

    A run that stands in two sweeps is trained once and mirrored into both experiments: MLflow compares runs within an
    experiment, and there its arm and its parent are those of that sweep. Raises mlflow's errors when the store fails.
    """
    mirrors = dict(_mirrors(runs_root, manifest, tally))
    if not mirrors:
        return
    with exclusive(runs_root / "mlflow.lock"):  # two syncs at a time would each create the same runs
        tags = {**EXPERIMENT_KIND, NOTE: _note(manifest, mirrors), "moco.sweep": manifest["name"]}
        experiment = experiment_id(client, runs_root, manifest["label"], tags)
        found = existing_runs(client, experiment)
        parent = _push_parent(client, experiment, manifest, mirrors, found.pop(None, None), tally)
        for key, mirror in mirrors.items():
            push(client, experiment, parent, mirror, found.get(key), tally)


def _mirrors(runs_root: Path, manifest: schema.Manifest, tally: Tally) -> Iterator[tuple[Key, Mirror]]:
    for cell in manifest["cells"]:
        try:
            mirror = mirror_of(runs_root, manifest, cell)
        except (ValueError, KeyError, OSError) as error:  # a damaged run hides nothing but itself
            tally.warnings.append(f"{cell['run_id']} ({cell['arm']} seed={cell['seed']}) is not in MLflow: {error}")
            continue
        if mirror is not None:
            yield (cell["run_id"], cell["arm"]), mirror


def existing_runs(client: MlflowClient, experiment: str) -> dict[Key | None, Run]:
    """The runs that an earlier sync made, by run id and arm; the parent under None. Others' runs are left alone."""
    found: dict[Key | None, Run] = {}
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment], max_results=1000, order_by=["attributes.start_time DESC"], page_token=token
        )
        for run in page:
            tags = run.data.tags
            if "moco.run_id" in tags:
                found[tags["moco.run_id"], tags["moco.arm"]] = run
            elif "moco.sweep" in tags:
                found[None] = run
        token = page.token
        if not token:
            return found


def push(client: MlflowClient, experiment: str, parent: str, mirror: Mirror, run: Run | None, tally: Tally) -> None:
    """Make one MLflow run equal to its mirror. A run whose beginning is not the journal's any more is replaced."""
    if run is not None and not _continues(run, mirror):
        client.delete_run(run.info.run_id)
        run = None
    if run is None:
        tags = {**mirror.tags, PARENT: parent}
        run = client.create_run(experiment, start_time=mirror.start_ms, tags=tags, run_name=mirror.name)
        tally.runs.add(run.info.run_id)
    _push_data(client, run, mirror, tally)
    _push_points(client, run, mirror, tally)
    _push_end(client, run, mirror, tally)


def _continues(run: Run, mirror: Mirror) -> bool:
    same_start = run.info.start_time == mirror.start_ms
    return same_start and Sent.parse(run.data.tags.get(SENT)).begins(mirror.points)


def _push_data(client: MlflowClient, run: Run, mirror: Mirror, tally: Tally) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

    params = [Param(k, v) for k, v in mirror.params.items() if k not in run.data.params]
    tags = [RunTag(k, v) for k, v in mirror.tags.items() if run.data.tags.get(k) != v]
    old = [k for k in run.data.tags if k.startswith("moco.") and k != SENT and k not in mirror.tags]
    for first in range(0, len(params), MAX_PARAMS):
        client.log_batch(run.info.run_id, params=params[first : first + MAX_PARAMS])
    if tags:
        client.log_batch(run.info.run_id, tags=tags)
    for key in old:
        client.delete_tag(run.info.run_id, key)
    if mirror.data is not None and not (run.inputs and run.inputs.dataset_inputs):
        data = Dataset(mirror.data.name, mirror.data.digest, mirror.data.source_type, mirror.data.source)
        client.log_inputs(run.info.run_id, datasets=[DatasetInput(data, [InputTag("mlflow.data.context", "train")])])
    if params or tags or old:
        tally.runs.add(run.info.run_id)


def _push_points(client: MlflowClient, run: Run, mirror: Mirror, tally: Tally) -> None:
    """Batches are written before the count that they carry; after a kill in between, the same batch is sent again and
    the store drops it, as a point is its own primary key."""
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


def _push_end(client: MlflowClient, run: Run, mirror: Mirror, tally: Tally) -> None:
    if _has_status(run, mirror.status, mirror.end_ms):
        return
    if mirror.status in ENDED:  # before the status: a run that says it has ended has its files
        for file in mirror.artifacts:
            client.log_artifact(run.info.run_id, str(file))
    _set_status(client, run, mirror.status, mirror.end_ms, tally)


def _has_status(run: Run, status: str, end_ms: int | None) -> bool:
    """A run that goes on keeps the end that it once had: MLflow cannot take it back."""
    return bool(run.info.status == status and (status not in ENDED or run.info.end_time == end_ms))


def _set_status(client: MlflowClient, run: Run, status: str, end_ms: int | None, tally: Tally) -> None:
    tally.runs.add(run.info.run_id)
    if status in ENDED:
        client.set_terminated(run.info.run_id, status=status, end_time=end_ms)
    else:
        client.update_run(run.info.run_id, status=status)


def _push_parent(
    client: MlflowClient,
    experiment: str,
    manifest: schema.Manifest,
    mirrors: Mapping[Key, Mirror],
    run: Run | None,
    tally: Tally,
) -> str:
    from mlflow.entities import RunTag

    tags = {
        "moco.sweep": manifest["name"],
        NOTE: _note(manifest, mirrors),
        "mlflow.source.name": f"sweeps/{manifest['name']}.py",
        "mlflow.source.type": "LOCAL",
    }
    if run is None:
        start = min(m.start_ms for m in mirrors.values())
        run = client.create_run(experiment, start_time=start, tags=tags, run_name=f"sweep {manifest['name']}")
        tally.runs.add(run.info.run_id)
        _log_manifest(client, run, manifest)
    changed = [RunTag(k, v) for k, v in tags.items() if run.data.tags.get(k) != v]
    if changed:
        tally.runs.add(run.info.run_id)
        client.log_batch(run.info.run_id, tags=changed)
        _log_manifest(client, run, manifest)
    status, end = _sweep_status(manifest, mirrors)
    if not _has_status(run, status, end):
        _set_status(client, run, status, end, tally)
    return str(run.info.run_id)


def _sweep_status(manifest: schema.Manifest, mirrors: Mapping[Key, Mirror]) -> tuple[str, int | None]:
    """RUNNING while a run is; else FAILED if one failed, FINISHED if all planned are done, KILLED if some are not."""
    statuses = {m.status for m in mirrors.values()}
    if statuses & {RUNNING, SCHEDULED}:
        return RUNNING, None
    end = max(m.end_ms or m.start_ms for m in mirrors.values())
    if FAILED in statuses:
        return FAILED, end
    return (FINISHED if statuses == {FINISHED} and len(mirrors) == len(manifest["cells"]) else KILLED), end


def _note(manifest: schema.Manifest, mirrors: Mapping[Key, Mirror]) -> str:
    return sweep_note(manifest, (arm for (_, arm), mirror in mirrors.items() if mirror.status == FINISHED))


def _log_manifest(client: MlflowClient, run: Run, manifest: schema.Manifest) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.json"
        file.write_text(json.dumps(manifest, indent=1) + "\n")
        client.log_artifact(run.info.run_id, str(file))


def run_ids_by_arm(client: MlflowClient, experiment: str, manifest: schema.Manifest) -> dict[str, list[str]]:
    """MLflow ids of each arm's runs, arms and seeds in the order of the sweep; arms without a run are absent."""
    found: dict[Any, Run] = existing_runs(client, experiment)
    ids: dict[str, list[str]] = {}
    for cell in manifest["cells"]:
        run = found.get((cell["run_id"], cell["arm"]))
        if run is not None:
            ids.setdefault(cell["arm"], []).append(run.info.run_id)
    return ids
