"""A launch on a cluster: jobs are submitted as one array, and followed with the local progress display if asked for.

Run directories become "queued" before their jobs are submitted; if the cluster refuses, they are restored. The jobs run a
copy of the present code (`experiments.launch.snapshot`).

    submit_and_follow, submit_cells, submission_of      what is to run of a sweep; any cells; without sending it
    follow                                              the progress of jobs
    may_retry, retry_runs                               start runs again that ended early, here or on their cluster
    node_local, check_shared_disk                       whether compute nodes see the folder of the runs
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from experiments.launch import job
from experiments.launch.estimate import bytes_in_words, disk_free
from experiments.launch.grid import paragraph
from experiments.launch.launch import Launch, summary, tracking, tracking_off
from experiments.launch.launch_plan import LaunchPlan
from experiments.launch.local import View
from experiments.launch.options import INTERRUPTED, Place
from experiments.launch.pack import elements_at_a_time, submit_packed
from experiments.launch.progress import Progress
from experiments.launch.snapshot import Snapshot, forget_unused
from experiments.launch.submissions import names, record
from experiments.plan.configs import config_of
from experiments.plan.sweep import Cell
from experiments.run import provenance
from experiments.run.cluster import (
    CLUSTER_VARIABLE,
    Profile,
    Submission,
    array_of,
    cluster_named,
    load_profile,
    new_folder,
    this_user,
)
from experiments.state.find import Found
from experiments.state.state import RunState, state_of
from experiments.store import schema
from experiments.store.files import in_threads, read_json, replace_json
from experiments.store.manifests import read_manifest
from experiments.store.run import Busy, RunDirectory
from experiments.tracking.job import LABEL
from experiments.tracking.store import URI_VARIABLE, user_uri
from moco.config import check_processes

POLL_SECONDS = 1.0
SMALL_FILES = 24 * 1024  # bytes that a submission writes for each run beside its environment
SEEN_FOLDER = "seen"  # records of which nodes see the runs root, in its folder for Slurm
NODE_LOCAL = (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")

IN_THE_QUEUE = (schema.QUEUED, schema.RUNNING)
RETRIED = (schema.FAILED, schema.CANCELLED, schema.LOST, schema.PREEMPTED)


def without_queued(launch_plan: LaunchPlan, *, force: bool) -> LaunchPlan:
    """The plan without runs that are queued or running. Raises ValueError for `--force` if there are such runs."""
    kept = queued(launch_plan)
    if force and kept:
        raise ValueError(f"--force: {len(kept)} runs are queued or running; cancel them first, or leave out --force")
    return replace(launch_plan, to_run=[cell for cell in launch_plan.to_run if cell not in kept])


def check_shares(cells: Sequence[Cell], profile: Profile) -> None:
    """Raises ValueError for a run that cannot be divided among the processes that the profile gives it."""
    for cell in cells:
        try:
            check_processes(cell.config, profile.processes)
        except ValueError as error:
            raise ValueError(f"profile {profile.name}, {cell.name}: {error}") from None


def queued(launch_plan: LaunchPlan) -> list[Cell]:
    """Cells of the plan that are queued or running."""
    return [cell for cell in launch_plan.cells if launch_plan.states[cell.run_id].state in IN_THE_QUEUE]


def submit_and_follow(launch_plan: LaunchPlan, *, wait: bool, only_if: str | None = None) -> int:
    """Submit, and follow if `wait`; returns the exit code. `only_if`: a job that must succeed before any run starts."""
    root, label, began = launch_plan.root, launch_plan.planned.label, time.monotonic()
    options, profile, max_parallel = launch_plan.options, launch_plan.options.profile, launch_plan.options.max_parallel
    assert profile is not None
    launch_plan.announce()
    if launch_plan.to_run:
        launch = Launch(root, label, launch_plan.to_run, options.command)
        jobs = submit_cells(launch, profile, max_parallel, planned=names(launch_plan.planned.cells()), only_if=only_if)
        say_how_to_follow(label, jobs, profile, max_parallel)
    else:
        print(f"nothing to submit: {len(queued(launch_plan))} are queued or running", flush=True)
    if not wait:
        return 0
    with tracking(options.place, label) if profile.tracking_mode != "off" else nullcontext():
        completed = follow(label, [*launch_plan.to_run, *queued(launch_plan)], root)
    if not completed:
        print("not followed any more; the jobs go on")
        return INTERRUPTED
    code = summary(root, launch_plan.cells, began, interrupted=False)
    launch_plan.show_table()
    return code


def submit_cells(
    launch: Launch,
    profile: Profile,
    max_parallel: int | None,
    *,
    planned: Mapping[str, str] | None = None,
    only_if: str | None = None,
) -> dict[str, str]:
    """Submit all cells of the launch; returns run id -> job id. Raises Refused or OSError after restoring all.

    `planned`: run id -> name, of all cells of the sweep, for the difference that the next `--dry-run` shows.
    """
    root, code = launch.root, Snapshot.of_this_code()
    launch.environment |= {"cluster": profile.name, "code": code.hash, "pack": profile.pack}
    launch.environment["gpus"] = profile.gpus_per_node * profile.nodes
    check_room(launch, code)
    paths = [root / cell.run_id for cell in launch.cells]
    before = dict(zip(paths, in_threads(lambda path: RunDirectory(path).status(), paths), strict=True))
    fresh = {path for path in paths if not path.exists()}
    submission = replace(submission_of(root, launch.title, profile, max_parallel, code), only_if=only_if)
    try:
        code.write(root)
        launch.enqueue()
        ids = submit_packed(submission, paths)
        submitted = schema.Status(cluster=profile.cluster, owner=this_user())
        in_threads(
            lambda one: _note_job(RunDirectory(one[0]), {**submitted, "job": one[1]}), zip(paths, ids, strict=True)
        )
    except BaseException:
        cluster = cluster_named(profile.cluster)
        cluster.withdraw(submission)
        cluster.cancel([only_if] if only_if else [])
        _restore(before, fresh)
        raise
    jobs = {path.name: id for path, id in zip(paths, ids, strict=True)}
    with suppress(OSError):  # without the record the next plan only shows no difference
        record(
            root,
            launch.title,
            profile=profile.name,
            cluster=profile.cluster,
            code=code.hash,
            command=launch.environment["command"],
            planned=planned or names(launch.cells),
            jobs=jobs,
        )
        forget_unused(root)
    return jobs


def submission_of(root: Path, title: str, profile: Profile, max_parallel: int | None, code: Snapshot) -> Submission:
    """A submission to the profile's cluster, in a folder of its own, that runs this copy of the code."""
    return Submission(
        profile,
        new_folder(root / schema.SLURM_FOLDER),
        title,
        elements_at_a_time(profile, max_parallel),
        environment_on_node(profile, code.path(root)) | _mirrored_by_jobs(profile, title),
        needs=(code.path(root),),
    )


def _mirrored_by_jobs(profile: Profile, label: str) -> dict[str, str]:
    """Variables by which jobs write to an MLflow server. The embedded MLflow is written only from a login node."""
    if profile.tracking_mode != "direct" or tracking_off() or (address := Place.of(profile).tracking) is None:
        return {}
    return {LABEL: label, URI_VARIABLE: address}


def environment_on_node(profile: Profile, code: Path) -> dict[str, str]:
    """Variables of a job: the copied code first on the path, the cluster, and the profile's limit of requeues."""
    return {
        "PYTHONPATH": os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONSAFEPATH": "1",  # the current folder, often the checkout, is not put before the copy
        "PYTHONUNBUFFERED": "1",
        CLUSTER_VARIABLE: profile.cluster,
        job.MAX_REQUEUES: str(profile.max_requeues),
    }


def check_room(launch: Launch, code: Snapshot) -> None:
    """Raises ValueError if the disk has no room even for the submission."""
    described = len(json.dumps(launch.environment)) + len(provenance.code().diff)
    need = len(launch.cells) * (described + SMALL_FILES) + sum(map(len, code.files.values()))
    if (free := disk_free(launch.root)) < need:
        raise ValueError(
            f"{launch.root}: {bytes_in_words(free)} free, the submission of {len(launch.cells)} runs alone writes "
            f"{bytes_in_words(need)}; free some space or set MOCO_RUNS to another folder; nothing was submitted"
        )


def _restore(statuses: Mapping[Path, schema.Status | None], fresh: set[Path]) -> None:
    """Restore the statuses. Directories that this launch made are removed first, to make room on a full disk."""
    for path in fresh:
        _forget(RunDirectory(path))
    for path, status in ((path, status) for path, status in statuses.items() if path not in fresh):
        run = RunDirectory(path)
        with suppress(Busy, OSError), run.locked():
            if (run.status() or {}).get("state") != schema.QUEUED:  # a worker has begun it meanwhile
                continue
            if status is None:
                (path / schema.STATUS).unlink()
            else:
                replace_json(path / schema.STATUS, status)


def _forget(run: RunDirectory) -> None:
    """Remove a directory that this launch made, unless a worker has begun the run."""
    try:
        with suppress(Busy), run.locked():
            if (run.status() or {}).get("state", schema.QUEUED) == schema.QUEUED:
                shutil.rmtree(run.path)
    except OSError:
        if not (run.path / schema.LOCK).exists():  # no room for it on the disk, so no worker has begun the run
            shutil.rmtree(run.path, ignore_errors=True)


def _note_job(run: RunDirectory, job: schema.Status) -> None:
    """Record the job of a run, unless its worker has begun, which records the job itself."""
    with suppress(Busy), run.locked():
        status = run.status() or schema.Status()
        if status.get("state") == schema.QUEUED:
            run.write_status({**status, **job})


def say_how_to_follow(label: str, jobs: Mapping[str, str], profile: Profile, max_parallel: int | None) -> None:
    """Print what was submitted, and the commands for it."""
    arrays = list(dict.fromkeys(array_of(id) for id in jobs.values()))
    throttle, name = max_parallel or profile.array_parallelism, shlex.quote(label)
    at_a_time = f", {throttle} at a time" if throttle else ""
    print(f"submitted {len(jobs)} runs to {profile.name} as job {', '.join(arrays)}{at_a_time}")
    print("The same command submits what is then missing, --wait follows. Verbs: logs, cancel, throttle, retry, sync.")
    print(f"python -m experiments status {name}", flush=True)


def follow(title: str, cells: Sequence[Cell], root: Path) -> bool:
    """Show the runs until none is queued or running. Returns False at Ctrl-C, which does not end the jobs."""
    with Progress(title, cells, len(cells), root) as view:
        try:
            _watch(view, cells, root)
        except KeyboardInterrupt:
            return False
    return True


def _watch(view: View, cells: Sequence[Cell], root: Path) -> None:
    waiting, running = list(cells), set[str]()
    while waiting:
        for cell in list(waiting):
            state = state_of(root / cell.run_id)
            if state.state == schema.RUNNING and cell.run_id not in running:
                running.add(cell.run_id)
                view.started(cell)
            if state.state == schema.RUNNING:
                view.progress(cell, state)
            elif state.state != schema.QUEUED:
                view.ended(cell, state)
                waiting.remove(cell)
        if waiting:
            time.sleep(POLL_SECONDS)


def may_retry(state: RunState) -> bool:
    """Whether it ended early, or its job ended before it began. Runs that were never started are not retried."""
    return state.state in RETRIED or (state.state == schema.MISSING and state.cause is not None)


def retry_runs(root: Path, runs: Sequence[Found], command: str) -> int:
    """Start them again, by cluster and sweep; returns the exit code of those that ran on this machine."""
    groups: dict[tuple[str | None, str | None], list[Cell]] = {}
    for run in runs:
        config = config_of(RunDirectory(root / run.run_id))
        cell = Cell(run.arm or run.run_id, config.train.seed, config, run.run_id)
        groups.setdefault((cluster_of(root / run.run_id), run.label), []).append(cell)
    return max((_retry(root, cluster, label, cells, command) for (cluster, label), cells in groups.items()), default=0)


def cluster_of(path: Path) -> str | None:
    """The profile that the run was last submitted with; None if it was started on this machine."""
    cluster: str | None = (read_json(path / schema.ENVIRONMENT) or {}).get("cluster")
    return cluster


def _retry(root: Path, cluster: str | None, label: str | None, cells: Sequence[Cell], command: str) -> int:
    """`cluster`: a profile, or None for this machine. `label`: None for runs of no sweep. Returns the exit code."""
    launch, began = Launch(root, label or cells[0].name, cells, command), time.monotonic()
    if cluster is not None:
        profile = load_profile(cluster)
        only_if = check_shared_disk(root, profile)
        jobs = submit_cells(launch, profile, None, planned=_planned(root, label), only_if=only_if)
        say_how_to_follow(launch.title, jobs, profile, None)
        return 0
    launch.enqueue()
    with tracking(Place(root, user_uri()), label) if label else nullcontext():
        completed = launch.run(None)
    return summary(root, cells, began, interrupted=not completed)


def _planned(root: Path, label: str | None) -> dict[str, str] | None:
    """Run id -> name, of all cells of the sweep."""
    manifest = read_manifest(root, label) if label else None
    return {c["run_id"]: f"{c['arm']} seed {c['seed']}" for c in manifest["cells"]} if manifest else None


def node_local(root: Path) -> list[str]:
    """A warning, if the runs root is in a folder that other machines probably do not see."""
    local = next((folder for folder in NODE_LOCAL if root.is_relative_to(folder)), None)
    text = f"warning: {root} is under {local}, which compute nodes may not see; set MOCO_RUNS to a shared folder"
    return paragraph(text) if local else []


def check_shared_disk(root: Path, profile: Profile) -> str | None:
    """Check that the nodes of the profile see the runs root, before anything is started there.

    Returns None if they do; if all nodes are busy, the job that will check it. Raises Unseen, a ValueError, if they do not.
    """
    folder, cluster = root / schema.SLURM_FOLDER / SEEN_FOLDER, cluster_named(profile.cluster)
    if cluster.seen_by(folder, profile) is not None:
        return None
    job, node = cluster.check_shared_disk(folder, profile, lambda line: print("\n".join(paragraph(line)), flush=True))
    if node is not None:
        print(f"{node} sees it", flush=True)
        return None
    print(f"no node is free yet: the runs start if job {job} ends well, otherwise Slurm drops them", flush=True)
    return job
