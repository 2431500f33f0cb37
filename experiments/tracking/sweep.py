"""One sweep, or one search, as one MLflow experiment: a parent run, and below it a run for every cell that has begun.

    read_question    the manifest, and the mirror of each run
    mirror_sweep     brings the experiment up to date
    shared_view      the runs page of the sweep, as a link opens it

What one run becomes is in `mirror`, how it is written in `push`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.store import schema
from experiments.store.files import exclusive
from experiments.store.mlflow import VIEW
from experiments.store.schema import SearchRecord
from experiments.tracking.mirror import (
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    SCHEDULED,
    Artifact,
    CachedMirror,
    Mirror,
    MirrorCache,
)
from experiments.tracking.notes import rows, run_note, sweep_note
from experiments.tracking.push import Tally, push
from experiments.tracking.store import experiment_id, store_id
from experiments.tracking.study import study_parent, trial_note

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
MOST_COLUMNS = 8  # columns of params; more need scrolling


def metric_key(manifest: schema.Manifest) -> str:
    """The metric that the runs are compared by: of the test images, but for a search of the validation images."""
    return f"{'validation' if 'study' in manifest else 'test'}/{manifest['metric']}"


def shared_view(manifest: schema.Manifest, params: Iterable[Mapping[str, str]]) -> str:
    """The runs page: what the sweep varies in columns, the best run first. `params`: of every run that has begun.

    MLflow's page shows no param until a reader picks its columns. With `viewStateShareKey=KEY` in the address (as its
    Share button writes it) the page takes its view from the experiment's tag `mlflow.sharedViewState.KEY`, of which this
    is the value; but not if the address also has an order or a filter.
    """
    metric = f"metrics.`{metric_key(manifest)}`"
    shown = [f"params.`{name}`" for name in (*varied(manifest, list(params))[:MOST_COLUMNS], "seed")]
    view = {"orderByKey": metric, "orderByAsc": False, "selectedColumns": [*shown, metric, "tags.`moco.state`"]}
    return json.dumps(view, separators=(",", ":"))


def varied(manifest: schema.Manifest, params: list[Mapping[str, str]]) -> list[str]:
    """The params of the fields that the sweep declares to vary: those that differ between runs, or all if none does."""
    trained = [one for one in params if one.get("arm") != schema.RANDOM_INIT]
    groups = tuple(manifest["varies"])
    names = dict.fromkeys(
        name for one in trained for name in one if name in groups or name.startswith(tuple(f"{g}." for g in groups))
    )
    different = [name for name in names if len({one.get(name) for one in trained}) > 1]
    return different or list(names)


PARENT, NOTE, STORE = "mlflow.parentRunId", "mlflow.note.content", "moco.store"
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}  # opens in the training view, not the GenAI one
PENDING = (schema.QUEUED, schema.RUNNING)

Key = tuple[str, str]  # run id, arm


@dataclass
class Memory:
    """What a process that follows a sweep has read and sent. A single sync begins with an empty one."""

    cache: MirrorCache = field(default_factory=MirrorCache)
    sent: dict[str, Hashable] = field(default_factory=dict)  # label -> signature of what was sent completely


@dataclass(frozen=True)
class Question:
    """A sweep or a search, and what was read of its runs."""

    manifest: schema.Manifest
    search: SearchRecord | None
    found: Mapping[Key, CachedMirror]

    @property
    def signature(self) -> Hashable:
        plan = (self.manifest["updated"], len(self.manifest["cells"]))
        return (*plan, tuple((key, one.signature) for key, one in self.found.items()))

    @property
    def mirrors(self) -> dict[Key, Mirror]:
        return {key: one.mirror for key, one in self.found.items() if one.mirror is not None}

    @property
    def pending(self) -> bool:
        return any(one.state in PENDING for one in self.found.values())

    @property
    def goes_on(self) -> bool:
        return self.pending or self.manifest.get("open", False)


def read_question(
    runs_root: Path, manifest: schema.Manifest, search: SearchRecord | None, cache: MirrorCache, tally: Tally
) -> Question:
    """Read the directory of every cell; damaged ones are added to the warnings of the tally."""
    found = {(cell["run_id"], cell["arm"]): cache.get(runs_root, manifest, cell) for cell in manifest["cells"]}
    tally.warnings += [problem for one in found.values() for problem in one.problems]
    return Question(manifest, search, found)


def mirror_sweep(client: MlflowClient, runs_root: Path, question: Question, tally: Tally) -> None:
    """Bring the experiment named after the sweep's label up to date.

    A run that belongs to two sweeps is trained once and mirrored into both experiments, each with its arm and parent:
    MLflow compares runs within an experiment only. Raises mlflow's errors when the store fails.
    """
    mirrors, manifest = question.mirrors, question.manifest
    if not mirrors:
        return
    with exclusive(runs_root / "mlflow.lock"):  # two syncs at a time would each create the same runs
        ours = store_id(runs_root)
        parent = _parent(runs_root, question, mirrors, ours)
        view = shared_view(manifest, (mirror.params for mirror in mirrors.values()))
        tags = {**EXPERIMENT_KIND, NOTE: parent.tags[NOTE], "moco.sweep": manifest["name"], VIEW_TAG: view}
        experiment = experiment_id(client, runs_root, manifest["label"], tags)
        found = existing_runs(client, experiment, ours)
        for key in _renamed(manifest, found):  # an arm's name is a param, which MLflow cannot change
            client.delete_run(found.pop(key).info.run_id)
        parent_id = push(client, experiment, parent, found.get(None), tally)
        for key, mirror in _children(question, mirrors).items():
            tags = {**mirror.tags, PARENT: parent_id, STORE: ours}
            push(client, experiment, replace(mirror, tags=tags), found.get(key), tally)


def existing_runs(client: MlflowClient, experiment: str, ours: str) -> dict[Key | None, Run]:
    """The MLflow runs that earlier syncs of this folder of runs made, by run id and arm; the parent is under None.

    Others are left alone: runs that people made by hand, and those of another folder with the same sweep.
    """
    found: dict[Key | None, Run] = {}
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment], max_results=1000, order_by=["attributes.start_time DESC"], page_token=token
        )
        for run in page:
            tags = run.data.tags
            if tags.get(STORE, ours) != ours:
                continue
            if "moco.run_id" in tags:
                found[tags["moco.run_id"], tags["moco.arm"]] = run
            elif "moco.sweep" in tags:
                found[None] = run
        token = page.token
        if not token:
            return found


def _renamed(manifest: schema.Manifest, found: Mapping[Key | None, Run]) -> list[Key]:
    """The runs that stand in MLflow under a name that their arm had before."""
    planned = {(cell["run_id"], cell["arm"]) for cell in manifest["cells"]}
    ids = {run_id for run_id, _ in planned}
    return [key for key in found if key is not None and key[0] in ids and key not in planned]


def _children(question: Question, mirrors: Mapping[Key, Mirror]) -> dict[Key, Mirror]:
    """The mirrors with their notes, which show the table of the whole sweep once it has ended."""
    manifest, search = question.manifest, question.search
    arms = None if question.goes_on or search else rows(manifest, mirrors)
    noted: dict[Key, Mirror] = {}
    for cell in manifest["cells"]:
        key = (cell["run_id"], cell["arm"])
        if key in mirrors:
            mirror = mirrors[key]
            note = trial_note(search, cell, mirror) if search else run_note(manifest, cell, mirror, arms)
            noted[key] = replace(mirror, tags={**mirror.tags, NOTE: note})
    return noted


def _parent(runs_root: Path, question: Question, mirrors: Mapping[Key, Mirror], ours: str) -> Mirror:
    manifest = question.manifest
    commits = [commit for mirror in mirrors.values() if (commit := mirror.tags.get("moco.commit"))]
    plan = json.dumps(manifest, indent=1) + "\n"
    status, end = _status(question, mirrors)
    made = Mirror(
        name=f"sweep {manifest['name']}",
        status=status,
        start_ms=min(m.start_ms for m in mirrors.values()),
        end_ms=end,
        tags={
            "moco.sweep": manifest["name"],
            STORE: ours,
            NOTE: sweep_note(manifest, rows(manifest, mirrors), commits),
            "mlflow.source.name": f"sweeps/{manifest['name']}.py",
            "mlflow.source.type": "LOCAL",
        },
        artifacts=(Artifact("sweep.json", hashlib.sha256(plan.encode()).hexdigest(), lambda: plan),),
    )
    return study_parent(runs_root, question.search, made) if question.search else made


def _status(question: Question, mirrors: Mapping[Key, Mirror]) -> tuple[str, int | None]:
    """RUNNING while a run is; else FAILED if a run failed, FINISHED if all planned runs are done, KILLED if not.

    A search is FINISHED when its budget is spent, whether or not trials were pruned or failed.
    """
    statuses = {m.status for m in mirrors.values()}
    if question.pending or statuses & {RUNNING, SCHEDULED}:
        return RUNNING, None
    end = max(m.end_ms or m.start_ms for m in mirrors.values())
    if question.search:
        whole = KILLED if question.manifest.get("open", False) else FINISHED
        return (FAILED if question.search["failure"] else whole), end
    if FAILED in statuses:
        return FAILED, end
    complete = statuses == {FINISHED} and len(mirrors) == len(question.manifest["cells"])
    return (FINISHED if complete else KILLED), end


def run_ids_by_arm(
    client: MlflowClient, runs_root: Path, experiment: str, manifest: schema.Manifest
) -> dict[str, list[str]]:
    """MLflow ids of each arm's runs, arms and seeds in the order of the sweep; arms without a run are absent."""
    found = existing_runs(client, experiment, store_id(runs_root))
    ids: dict[str, list[str]] = {}
    for cell in manifest["cells"]:
        run = found.get((cell["run_id"], cell["arm"]))
        if run is not None:
            ids.setdefault(cell["arm"], []).append(run.info.run_id)
    return ids
