"""A launch on a cluster: jobs are submitted as one array, and followed with the local progress display if asked for.

Run directories become "queued" before their jobs are submitted; if the cluster refuses, they are restored. That no run gets
two jobs is the business of `experiments.launch.submitting`. The jobs run a copy of the present code
(`experiments.launch.snapshot`).

    looking_again                                       the plan as it is now, while no other command submits
    submit_plan, submit_cells, submission_of            what is to run of a sweep; any cells; without sending it
    follow_to_the_end, follow                           the progress of jobs
    may_retry, retry_runs                               start runs again that ended early, here or on their cluster
    node_local, check_shared_disk                       whether compute nodes see the folder of the runs
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.launch import job
from experiments.launch.estimate import bytes_in_words, disk_free
from experiments.launch.grid import many, paragraph
from experiments.launch.launch import Launch, summary, tracking, tracking_off
from experiments.launch.launch_plan import LaunchPlan
from experiments.launch.local import View
from experiments.launch.options import INTERRUPTED, Place, verb
from experiments.launch.pack import elements_at_a_time, elements_of, submit_packed
from experiments.launch.progress import Progress
from experiments.launch.snapshot import Snapshot, forget_unused
from experiments.launch.submissions import keep_limit, limit_of, names, record, submissions
from experiments.launch.submitting import ending_in_order, intend, note_job, one_command, settle, unknown
from experiments.launch.way import takes_gpus, way_of_cells
from experiments.plan.configs import config_of
from experiments.plan.sweep import Cell
from experiments.run import provenance
from experiments.run.cluster import (
    CLUSTER_VARIABLE,
    Profile,
    Submission,
    array_of,
    cluster_named,
    is_secret,
    load_profile,
    new_folder,
    this_user,
)
from experiments.state.find import Found
from experiments.state.state import RunState, state_of, states_of
from experiments.store import schema
from experiments.store.files import in_threads, read_json, replace_json
from experiments.store.manifests import read_manifest
from experiments.store.run import Busy, RunDirectory
from experiments.store.secrets import words_without_secrets
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
    """The plan without runs that are queued or running, and without those whose job may be there for all that is known.

    Prints the latter. Raises ValueError for `--force` if there are such runs.
    """
    kept = queued(launch_plan)
    if force and kept:
        raise ValueError(f"--force: {len(kept)} runs are queued or running; cancel them first, or leave out --force")
    unsure = unknown(launch_plan.root, [cell.run_id for cell in launch_plan.to_run if cell not in kept])
    _print_unsure(unsure, force=force)
    to_run = [cell for cell in launch_plan.to_run if cell not in kept and cell.run_id not in unsure]
    return replace(launch_plan, to_run=to_run)


def _print_unsure(unsure: Mapping[str, str], *, force: bool = False) -> None:
    if not unsure:
        return
    why = next(iter(unsure.values()))
    what = f"{len(unsure)} {'run is' if len(unsure) == 1 else 'runs are'} left alone: {why}"
    if force:
        raise ValueError(f"--force: {what}; a second job would train beside the first")
    print("\n".join(paragraph(f"warning: {what}. A second job would train beside the first.")), flush=True)


def awaited(launch_plan: LaunchPlan) -> list[Cell]:
    """Cells of the plan that are queued or running, or of which that is not known because their cluster says nothing."""
    there = queued(launch_plan)
    unsure = unknown(launch_plan.root, [cell.run_id for cell in launch_plan.cells if cell not in there])
    return [cell for cell in launch_plan.cells if cell in there or cell.run_id in unsure]


@contextmanager
def looking_again(launch_plan: LaunchPlan) -> Iterator[LaunchPlan]:
    """The plan as it is now, while no other command submits: another one may have submitted some of it meanwhile."""
    with one_command(launch_plan.root):
        unsettled = settle(launch_plan.root)
        now = LaunchPlan.of(launch_plan.planned, launch_plan.options, launch_plan.cells)
        wanted = {cell.run_id for cell in launch_plan.to_run}
        to_run = [cell for cell in now.to_run if cell.run_id in wanted]
        _print_unsure({cell.run_id: unsettled[cell.run_id] for cell in to_run if cell.run_id in unsettled})
        now = replace(now, to_run=[cell for cell in to_run if cell.run_id not in unsettled])
        yield without_queued(now, force=launch_plan.options.force)


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


def submit_plan(launch_plan: LaunchPlan, *, wait: bool, only_if: str | None = None) -> list[Cell]:
    """Submit what is to run; returns the cells that the site has no room for yet. The caller holds the lock.

    `only_if`: a job that must succeed before any run starts. `wait`: the caller follows the jobs.
    """
    label, options, profile = launch_plan.planned.label, launch_plan.options, launch_plan.options.profile
    assert profile is not None
    launch_plan.announce()
    if not launch_plan.to_run:
        there = len(queued(launch_plan))
        silent = len(awaited(launch_plan)) - there
        of_those = f", and of {silent} their cluster says nothing" if silent else ""
        print(f"nothing to submit: {there} are queued or running{of_those}", flush=True)
        return []
    launch = Launch(launch_plan.root, label, launch_plan.to_run, options.command)
    launch.environment |= kept_settings(options.cluster_settings)
    planned = names(launch_plan.planned.cells())
    if options.max_parallel is not None or not any(s.state in IN_THE_QUEUE for s in launch_plan.states.values()):
        keep_limit(launch_plan.root, label, options.max_parallel)
    jobs = submit_cells(launch, profile, options.max_parallel, planned=planned, only_if=only_if)
    say_how_to_follow(launch_plan.root, label, jobs, profile, options.max_parallel)
    say_what_is_left(launch, jobs, wait=wait)
    return [cell for cell in launch.cells if cell.run_id not in jobs]


def follow_to_the_end(launch_plan: LaunchPlan, left: Sequence[Cell]) -> int:
    """Follow the runs of the plan until all have ended, and submit those that are `left` when there is room for them."""
    root, label, began = launch_plan.root, launch_plan.planned.label, time.monotonic()
    profile = launch_plan.options.profile
    assert profile is not None
    unsure = unknown(root, [cell.run_id for cell in launch_plan.cells])
    submitted = [c for c in launch_plan.cells if (c in launch_plan.to_run and c not in left) or c.run_id in unsure]
    with tracking(launch_plan.options.place, label) if profile.tracking_mode != "off" else nullcontext():
        followed = follow(label, [*submitted, *awaited(launch_plan)], root)
        while followed and left:
            with looking_again(replace(launch_plan, to_run=left)) as now:
                left = submit_plan(now, wait=True)
            followed = follow(label, [cell for cell in now.to_run if cell not in left], root)
    if not followed:
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
    """Submit the cells of the launch; returns run id -> job id, of all, or of as many as the site has room for.

    Raises Refused or OSError after restoring all. The caller holds the lock. `planned`: run id -> name, of all cells of the
    sweep, for the difference that the next `--dry-run` shows.
    """
    root, code, cluster = launch.root, Snapshot.of_this_code(), cluster_named(profile.cluster)
    launch.environment |= {"cluster": profile.name, "code": code.hash, "pack": profile.pack}
    launch.environment["gpus"] = profile.gpus_per_node * profile.nodes
    for line in idle_gpus(launch.cells, profile):
        print(line, flush=True)
    check_room(launch, code)
    paths = [root / cell.run_id for cell in launch.cells]
    before = dict(zip(paths, in_threads(lambda path: RunDirectory(path).status(), paths), strict=True))
    fresh = {path for path in paths if not path.exists()}
    submission = submission_of(root, launch.title, profile, max_parallel, code)
    submission = within_the_limit(replace(submission, only_if=only_if), asked=max_parallel is not None)
    facts: dict[str, Any] = {
        "profile": profile.name,
        "cluster": cluster.recorded(),
        "code": code.hash,
        "command": launch.environment["command"],
        "planned": dict(planned or names(launch.cells)),
    }
    with ending_in_order():
        try:
            code.write(root)
            launch.enqueue()
            elements = elements_of(submission, paths)
            intent = intend(root, submission, launch.title, elements, **facts)
            ids = submit_packed(submission, paths)
            submitted = schema.Status(cluster=facts["cluster"], owner=this_user())
            in_threads(lambda one: note_job(one[0], {**submitted, "job": one[1]}), zip(paths, ids, strict=False))
            _restore({path: before[path] for path in paths[len(ids) :]}, fresh & set(paths[len(ids) :]))
        except BaseException:
            cluster.withdraw(submission)
            cluster.cancel([only_if] if only_if else [])
            _restore(before, fresh)
            raise
    jobs = {path.name: id for path, id in zip(paths, ids, strict=False)}
    with suppress(OSError):  # without the record the next plan only shows no difference
        record(root, launch.title, **facts, jobs=jobs)
        forget_unused(root)
    intent.unlink()
    return jobs


def idle_gpus(cells: Sequence[Cell], profile: Profile) -> list[str]:
    """A warning, if the profile gives each run GPUs and none of the runs would use them."""
    gpus = profile.gpus_per_node * profile.nodes
    if not gpus or takes_gpus(cells, gpus=gpus):
        return []
    way = way_of_cells(cells, gpus=gpus)
    given = "the GPU stays" if gpus == 1 else f"the {gpus} GPUs stay"
    return paragraph(
        f"warning: {given} idle that profile {profile.name} gives each run: {way.line}. A profile without gpus would do."
    )


def within_the_limit(submission: Submission, *, asked: bool) -> Submission:
    """With the runs of this sweep that are in the queue already, no more run at a time than are wanted for all of them.

    `asked`: the limit is of this command; otherwise that of an earlier one holds as long as its jobs are there. What is
    left of the limit holds for the new ones; if nothing is left, they wait until the others have ended.
    """
    limit, root = submission.throttle, submission.folder.parent.parent
    kept = None if asked else limit_of(root, submission.title)
    if limit is None and kept is None:
        return submission
    cluster, ours = cluster_named(submission.profile.cluster), cluster_named(submission.profile.cluster).recorded()
    earlier = [
        job
        for line in submissions(root, submission.title)
        if line.get("cluster") in (ours, submission.profile.cluster) and line["user"] == this_user()
        for job in line["jobs"].values()
    ]
    arrays = cluster.arrays(earlier) if earlier else []
    live = sum(array.running + array.waiting for array in arrays)
    if kept is not None and live:
        limit = max(1, kept // submission.profile.pack)
    if limit is None:
        return submission
    if live < limit:
        return replace(submission, max_parallel=limit - live)
    behind = [array.job for array in arrays]
    print(f"they wait for job {', '.join(behind)}: {limit} at a time is the limit of all runs of the sweep", flush=True)
    return replace(submission, behind=behind)


def say_what_is_left(launch: Launch, jobs: Mapping[str, str], *, wait: bool) -> None:
    if left := len(launch.cells) - len(jobs):
        then = (
            "they are submitted when those have ended"
            if wait
            else "the same command submits them when others have ended"
        )
        print(f"{left} more do not fit into the site's limit of jobs; {then}", flush=True)


def submission_of(root: Path, title: str, profile: Profile, max_parallel: int | None, code: Snapshot) -> Submission:
    """A submission to the profile's cluster, in a folder of its own, that runs this copy of the code."""
    return Submission(
        profile,
        new_folder(root / schema.SLURM_FOLDER),
        title,
        elements_at_a_time(profile, max_parallel),
        environment_on_node(profile, code.path(root)) | _mirrored_by_jobs(profile, title),
        needs=(code.path(root),),
        afterwards="experiments.launch.ended",
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
        CLUSTER_VARIABLE: cluster_named(profile.cluster).recorded(),
        job.MAX_REQUEUES: str(profile.max_requeues),
        job.GPUS: str(profile.gpus_per_node),
    }


def check_room(launch: Launch, code: Snapshot) -> None:
    """Raises ValueError if the disk has no room even for the submission."""
    described = len(json.dumps(launch.environment)) + min(len(provenance.code().diff), provenance.LARGE_BYTES)
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


def say_how_to_follow(
    root: Path, label: str, jobs: Mapping[str, str], profile: Profile, max_parallel: int | None
) -> None:
    """Print what was submitted, and the commands for it."""
    arrays = list(dict.fromkeys(array_of(id) for id in jobs.values()))
    throttle = max_parallel or profile.array_parallelism
    at_a_time = f", {throttle} at a time" if throttle else ""
    print(f"submitted {many(len(jobs), 'run')} to {profile.name} as job {', '.join(arrays)}{at_a_time}")
    print("The same command submits what is then missing, --wait follows. Verbs: logs, cancel, throttle, retry, sync.")
    print(verb(root, "status", label), flush=True)


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
            elif state.state != schema.QUEUED and not unknown(root, [cell.run_id]):
                view.ended(cell, state)
                waiting.remove(cell)
        if waiting:
            time.sleep(POLL_SECONDS)


def may_retry(state: RunState) -> bool:
    """Whether it ended early, or its job ended before it began. Runs that were never started are not retried."""
    return state.state in RETRIED or (state.state == schema.MISSING and state.cause is not None)


def retry_runs(root: Path, runs: Sequence[Found], command: str) -> int:
    """Start them again, by cluster and sweep; returns the exit code of those that ran on this machine."""
    groups: dict[tuple[Sent, str | None], list[Cell]] = {}
    for run in runs:
        config = config_of(RunDirectory(root / run.run_id))
        cell = Cell(run.arm or run.run_id, config.train.seed, config, run.run_id)
        groups.setdefault((sent_by(root / run.run_id), run.label), []).append(cell)
    for (sent, label), cells in groups.items():
        if sent.withheld:
            given = " ".join(f"{field}=..." for field in sent.withheld)
            raise ValueError(
                f"{label or cells[0].name}: was submitted with --cluster-set {given}, whose value is not kept because it may "
                "hold a password; the command that started it, with --retry and that setting, gives it again; nothing was "
                "started"
            )
    codes = [_retry(root, sent, label, cells, command) for (sent, label), cells in groups.items()]
    return max(codes, default=0)


@dataclass(frozen=True)
class Sent:
    """How a run was last submitted. `cluster`: a profile, None for this machine. `pack`: None in older stores."""

    cluster: str | None
    settings: tuple[str, ...] = ()  # of --cluster-set
    withheld: tuple[str, ...] = ()  # fields of further ones, whose values may be secrets
    pack: int | None = None

    def profile(self) -> Profile:
        assert self.cluster is not None
        profile = load_profile(self.cluster, self.settings)
        return replace(profile, pack=self.pack or profile.pack)


def sent_by(path: Path) -> Sent:
    described = read_json(path / schema.ENVIRONMENT) or {}
    if (cluster := described.get("cluster")) is None:
        return Sent(None)
    settings, withheld = (tuple(described.get(name) or ()) for name in ("cluster_set", "cluster_set_withheld"))
    return Sent(cluster, settings, withheld, described.get("pack"))


def kept_settings(settings: Sequence[str]) -> dict[str, list[str]]:
    """What is recorded of --cluster-set: the settings, and the names of those whose values may be secrets."""
    kept, withheld = list[str](), list[str]()
    for setting in settings:
        field, _, value = setting.partition("=")
        hide = is_secret(field, value) or words_without_secrets([setting]) != [setting]
        (withheld if hide else kept).append(field if hide else setting)
    return {"cluster_set": kept, **({"cluster_set_withheld": withheld} if withheld else {})}


def _retry(
    root: Path,
    sent: Sent,
    label: str | None,
    cells: Sequence[Cell],
    command: str,
) -> int:
    """`label`: None for runs of no sweep. Returns the exit code."""
    launch, began = Launch(root, label or cells[0].name, cells, command), time.monotonic()
    if sent.cluster is not None:
        profile = sent.profile()
        launch.environment |= kept_settings(sent.settings)
        only_if = check_shared_disk(root, profile)
        with one_command(root):
            unsure = settle(root)
            unsure |= unknown(root, [cell.run_id for cell in cells])
            _print_unsure(unsure)
            states = states_of(root, [cell.run_id for cell in cells])
            launch.cells = [c for c in cells if may_retry(states[c.run_id]) and c.run_id not in unsure]
            if not launch.cells:
                print("nothing to submit: another command has submitted them")
                return 0
            at_once = limit_of(root, label) if label else None
            jobs = submit_cells(launch, profile, at_once, planned=_planned(root, label), only_if=only_if)
        say_how_to_follow(root, launch.title, jobs, profile, at_once)
        say_what_is_left(launch, jobs, wait=False)
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
