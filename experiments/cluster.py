"""A launch on a cluster: submit what is to run as one array, return at once; follow it with the local progress display.

The directories say "queued" before Slurm hears of them, and say what they said before if Slurm refuses.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from experiments import job, schema
from experiments.durable import replace_json
from experiments.grid import paragraph
from experiments.launch import Launch, print_table, summary, tracking
from experiments.pool import View
from experiments.processes import child_environment
from experiments.progress import Progress
from experiments.prospect import Prospect
from experiments.reconcile import RunState, state_of
from experiments.run_directory import Busy, RunDirectory
from experiments.sweep import Cell
from slurm.launch import start_estimate, submit
from slurm.profiles import Profile

FOLDER = "slurm"  # under $MOCO_RUNS: scripts and logs of the jobs
LOOK_SECONDS = 1.0
NODE_LOCAL = (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")

INTERRUPTED = 130
IN_THE_QUEUE = (schema.QUEUED, schema.RUNNING)


def without_queued(prospect: Prospect, *, force: bool) -> Prospect:
    """What waits or runs is left to do so. Raises ValueError for a `--force` that would take a run from under its job."""
    kept = queued(prospect)
    if force and kept:
        raise ValueError(f"--force: {len(kept)} runs are queued or running; cancel them first, or leave out --force")
    return replace(prospect, to_run=[cell for cell in prospect.to_run if cell not in kept])


def queued(prospect: Prospect) -> list[Cell]:
    return [cell for cell in prospect.cells if prospect.states[cell.run_id].state in IN_THE_QUEUE]


def would_submit(prospect: Prospect, profile: Profile, when: str | None) -> str:
    if when is None:
        return "nothing to submit"
    options = " ".join(f"--{name}={value}" for name, value in profile.options().items())
    lines = [f"{len(prospect.to_run)} to submit with {options}", f"one such job: {when}", *node_local(prospect.root)]
    return "\n".join(lines)


def node_local(root: Path) -> list[str]:
    """A warning, for a runs root that other machines can hardly see."""
    local = next((folder for folder in NODE_LOCAL if root.is_relative_to(folder)), None)
    text = f"warning: {root} is under {local}, which compute nodes may not see; set MOCO_RUNS to a shared folder"
    return paragraph(text) if local else []


def launch(prospect: Prospect, profile: Profile, command: str, max_parallel: int | None, *, wait: bool) -> int:
    """Submit, and follow if asked to; returns the exit code."""
    root, label, began = prospect.root, prospect.planned.label, time.monotonic()
    prospect.announce()
    print("\n".join(node_local(root)), end="\n" if node_local(root) else "")
    if prospect.to_run:
        jobs = submit_cells(Launch(root, label, prospect.to_run, command), profile, max_parallel)
        say_how_to_follow(label, jobs, profile, max_parallel)
    else:
        print(f"nothing to submit: {len(queued(prospect))} are queued or running", flush=True)
    if not wait:
        return 0
    with tracking(root, label):
        seen_to_the_end = follow(label, [*prospect.to_run, *queued(prospect)], root)
    if not seen_to_the_end:
        print("not followed any more; the jobs go on")
        return INTERRUPTED
    code = summary(root, prospect.cells, began, interrupted=False)
    print_table(root, label)
    return code


def submit_cells(launch: Launch, profile: Profile, max_parallel: int | None) -> dict[str, str]:
    """All cells of the launch; returns run id -> job id. Raises Refused, with everything as it was."""
    paths = [launch.root / cell.run_id for cell in launch.cells]
    before = {path: RunDirectory(path).status() for path in paths}
    try:
        launch.enqueue()
        ids = submit(
            profile, job.work, paths, launch.root / FOLDER, launch.title,
            max_parallel=max_parallel, environment=_environment(profile),
        )  # fmt: skip
    except BaseException:
        _as_before(before)
        raise
    for path, id in zip(paths, ids, strict=True):
        _note_job(RunDirectory(path), id)
    return {path.name: id for path, id in zip(paths, ids, strict=True)}


def _environment(profile: Profile) -> dict[str, str]:
    """On the node: our packages, also from a bare checkout, and the profile's own limit of requeues."""
    return {
        "PYTHONPATH": child_environment()["PYTHONPATH"],
        "PYTHONUNBUFFERED": "1",
        job.MAX_REQUEUES: str(profile.max_requeues),
    }


def _as_before(statuses: Mapping[Path, schema.Status | None]) -> None:
    for path, status in statuses.items():
        run = RunDirectory(path)
        with suppress(Busy, FileNotFoundError), run.locked():
            if (run.status() or {}).get("state") != schema.QUEUED:  # someone has begun it in the meantime
                continue
            if status is None:
                (path / schema.STATUS).unlink()
            else:
                replace_json(path / schema.STATUS, status)


def _note_job(run: RunDirectory, id: str) -> None:
    """A worker that was faster has noted it itself."""
    with suppress(Busy), run.locked():
        status = run.status() or schema.Status()
        if status.get("state") == schema.QUEUED:
            run.write_status({**status, "job": id})


def say_how_to_follow(label: str, jobs: Mapping[str, str], profile: Profile, max_parallel: int | None) -> None:
    arrays = list(dict.fromkeys(id.partition("_")[0] for id in jobs.values()))
    throttle, name = max_parallel or profile.array_parallelism, shlex.quote(label)
    at_a_time = f", {throttle} at a time" if throttle else ""
    print(f"submitted {len(jobs)} runs to {profile.name} as job {', '.join(arrays)}{at_a_time}")
    print("The same command submits what is then missing, with --wait it follows. Other verbs: logs, cancel, sync.")
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
            time.sleep(LOOK_SECONDS)


def _tell(view: View, cell: Cell, state: RunState) -> None:
    if state.state == schema.RUNNING:
        view.progress(cell, state)
    elif state.state != schema.QUEUED:
        view.ended(cell, state)


__all__ = ["launch", "queued", "start_estimate", "without_queued", "would_submit"]
