"""A launch on a cluster: submit what is to run as one array, return at once; follow it with the local progress display.

Run directories become "queued" before their jobs are submitted, and are as they were if the cluster refuses. The jobs run a
copy of the code as it is now (`experiments.launch.snapshot`).
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
SMALL_FILES = 24 * 1024  # bytes that a submission writes for each run beside what it knows of the machine

IN_THE_QUEUE = (schema.QUEUED, schema.RUNNING)


def without_queued(launch_plan: LaunchPlan, *, force: bool) -> LaunchPlan:
    """What waits or runs is left to do so. Raises ValueError for a `--force` that would take a run from under its job."""
    kept = queued(launch_plan)
    if force and kept:
        raise ValueError(f"--force: {len(kept)} runs are queued or running; cancel them first, or leave out --force")
    return replace(launch_plan, to_run=[cell for cell in launch_plan.to_run if cell not in kept])


def check_shares(cells: Sequence[Cell], profile: Profile) -> None:
    """Raises ValueError for a run that cannot be shared out among the processes that the profile gives it."""
    for cell in cells:
        try:
            check_processes(cell.config, profile.processes)
        except ValueError as error:
            raise ValueError(f"profile {profile.name}, {cell.name}: {error}") from None


def queued(launch_plan: LaunchPlan) -> list[Cell]:
    return [cell for cell in launch_plan.cells if launch_plan.states[cell.run_id].state in IN_THE_QUEUE]


def submit_and_follow(launch_plan: LaunchPlan, *, wait: bool, only_if: str | None = None) -> int:
    """Submit, and follow if asked to; returns the exit code. `only_if`: a job that must end well before any run starts."""
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
        seen_to_the_end = follow(label, [*launch_plan.to_run, *queued(launch_plan)], root)
    if not seen_to_the_end:
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
    """All cells of the launch; returns run id -> job id. Raises Refused or OSError, with everything as it was.

    `planned`: run id -> name of all cells of the sweep, for the difference that the next `--dry-run` shows.
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
        _as_before(before, fresh)
        raise
    jobs = {path.name: id for path, id in zip(paths, ids, strict=True)}
    with suppress(OSError):  # a view: without it the next plan shows no difference
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
    return Submission(
        profile,
        new_folder(root / schema.SLURM_FOLDER),
        title,
        elements_at_a_time(profile, max_parallel),
        environment_on_node(profile, code.path(root)) | _mirrored_by_jobs(profile, title),
        needs=(code.path(root),),
    )


def _mirrored_by_jobs(profile: Profile, label: str) -> dict[str, str]:
    """Where MLflow is a server that has an address; what is embedded beside the runs, a login node writes alone."""
    if profile.tracking_mode != "direct" or tracking_off() or (address := Place.of(profile).tracking) is None:
        return {}
    return {LABEL: label, URI_VARIABLE: address}


def environment_on_node(profile: Profile, code: Path) -> dict[str, str]:
    """The copied code before everything else, and the profile's own limit of requeues."""
    return {
        "PYTHONPATH": os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONSAFEPATH": "1",  # the folder of the submission, often the checkout, stays behind the copy
        "PYTHONUNBUFFERED": "1",
        CLUSTER_VARIABLE: profile.cluster,
        job.MAX_REQUEUES: str(profile.max_requeues),
    }


def check_room(launch: Launch, code: Snapshot) -> None:
    """Raises ValueError for a disk that cannot even take the submission."""
    described = len(json.dumps(launch.environment)) + len(provenance.code().diff)
    need = len(launch.cells) * (described + SMALL_FILES) + sum(map(len, code.files.values()))
    if (free := disk_free(launch.root)) < need:
        raise ValueError(
            f"{launch.root}: {bytes_in_words(free)} free, the submission of {len(launch.cells)} runs alone writes "
            f"{bytes_in_words(need)}; free some space or set MOCO_RUNS to another folder; nothing was submitted"
        )


def _as_before(statuses: Mapping[Path, schema.Status | None], fresh: set[Path]) -> None:
    """Restore the statuses. Directories that this launch made are removed first, for a full disk needs room."""
    for path in fresh:
        _forget(RunDirectory(path))
    for path, status in ((path, status) for path, status in statuses.items() if path not in fresh):
        run = RunDirectory(path)
        with suppress(Busy, OSError), run.locked():
            if (run.status() or {}).get("state") != schema.QUEUED:  # someone has begun it in the meantime
                continue
            if status is None:
                (path / schema.STATUS).unlink()
            else:
                replace_json(path / schema.STATUS, status)


def _forget(run: RunDirectory) -> None:
    """Remove a directory that this launch made, unless someone has begun the run."""
    try:
        with suppress(Busy), run.locked():
            if (run.status() or {}).get("state", schema.QUEUED) == schema.QUEUED:
                shutil.rmtree(run.path)
    except OSError:
        if not (run.path / schema.LOCK).exists():  # the disk had no room for it: nobody can have begun the run
            shutil.rmtree(run.path, ignore_errors=True)


def _note_job(run: RunDirectory, job: schema.Status) -> None:
    """A worker that was faster has noted it itself."""
    with suppress(Busy), run.locked():
        status = run.status() or schema.Status()
        if status.get("state") == schema.QUEUED:
            run.write_status({**status, **job})


def say_how_to_follow(label: str, jobs: Mapping[str, str], profile: Profile, max_parallel: int | None) -> None:
    arrays = list(dict.fromkeys(array_of(id) for id in jobs.values()))
    throttle, name = max_parallel or profile.array_parallelism, shlex.quote(label)
    at_a_time = f", {throttle} at a time" if throttle else ""
    print(f"submitted {len(jobs)} runs to {profile.name} as job {', '.join(arrays)}{at_a_time}")
    print("The same command submits what is then missing, --wait follows. Verbs: logs, cancel, throttle, retry, sync.")
    print(f"python -m experiments status {name}", flush=True)


def follow(title: str, cells: Sequence[Cell], root: Path) -> bool:
    """Show the runs until none is in the queue any more. Returns False at Ctrl-C, which leaves the jobs alone."""
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
            _tell(view, cell, state)
            if state.state not in IN_THE_QUEUE:
                waiting.remove(cell)
        if waiting:
            time.sleep(POLL_SECONDS)


def _tell(view: View, cell: Cell, state: RunState) -> None:
    if state.state == schema.RUNNING:
        view.progress(cell, state)
    elif state.state != schema.QUEUED:
        view.ended(cell, state)


# Runs that ended early, started again where they came from: in the pool of this machine, or on their cluster.


RETRIED = (schema.FAILED, schema.CANCELLED, schema.LOST, schema.PREEMPTED)


def may_retry(state: RunState) -> bool:
    """Also a job that ended before its run began; what was never submitted is for the sweep's own command."""
    return state.state in RETRIED or (state.state == schema.MISSING and state.cause is not None)


def retry_runs(root: Path, runs: Sequence[Found], command: str) -> int:
    """Queue them, sweep by sweep and cluster by cluster; returns the exit code of those that ran here."""
    code = 0
    for (cluster, label), some in _where(root, runs).items():
        cells = [_cell(root, run) for run in some]
        code = max(code, _start(root, cluster, label, cells, command))
    return code


def _where(root: Path, runs: Sequence[Found]) -> Mapping[tuple[str | None, str | None], list[Found]]:
    """(profile, or None for this machine; label, or None for a run of no sweep) -> runs."""
    groups: dict[tuple[str | None, str | None], list[Found]] = {}
    for run in runs:
        groups.setdefault((cluster_of(root / run.run_id), run.label), []).append(run)
    return groups


def cluster_of(path: Path) -> str | None:
    """The profile that the run was last submitted with; None if it was started on this machine."""
    cluster: str | None = (read_json(path / schema.ENVIRONMENT) or {}).get("cluster")
    return cluster


def _cell(root: Path, run: Found) -> Cell:
    config = config_of(RunDirectory(root / run.run_id))
    return Cell(run.arm or run.run_id, config.train.seed, config, run.run_id)


def _start(root: Path, cluster: str | None, label: str | None, cells: Sequence[Cell], command: str) -> int:
    from experiments.launch.launch import Launch, summary, tracking

    launch, began = Launch(root, label or cells[0].name, cells, command), time.monotonic()
    if cluster is not None:
        profile = load_profile(cluster)
        look = check_shared_disk(root, profile)
        jobs = submit_cells(launch, profile, None, planned=_planned(root, label), only_if=look)
        say_how_to_follow(launch.title, jobs, profile, None)
        return 0
    launch.enqueue()
    with tracking(Place(root, user_uri()), label) if label else nullcontext():
        completed = launch.run(None)
    return summary(root, cells, began, interrupted=not completed)


def _planned(root: Path, label: str | None) -> dict[str, str] | None:
    manifest = read_manifest(root, label) if label else None
    return {c["run_id"]: f"{c['arm']} seed {c['seed']}" for c in manifest["cells"]} if manifest else None


# Do compute nodes see the folder of the runs? Asked before anything is begun there.


SEEN_FOLDER = "seen"  # who sees the runs root, in its folder for Slurm
NODE_LOCAL = (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")


def node_local(root: Path) -> list[str]:
    """A warning, for a runs root that other machines can hardly see."""
    local = next((folder for folder in NODE_LOCAL if root.is_relative_to(folder)), None)
    text = f"warning: {root} is under {local}, which compute nodes may not see; set MOCO_RUNS to a shared folder"
    return paragraph(text) if local else []


def check_shared_disk(root: Path, profile: Profile) -> str | None:
    """Whether the nodes of the profile see the runs. Returns None if they do, and a job that has yet to look if all are busy.

    Raises Unseen, a ValueError, if they do not.
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
