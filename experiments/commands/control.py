"""`cancel`, `throttle`, `retry`: change what is queued or running, or ended early."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.launch.cluster import may_go_again, start_again
from experiments.launch.grid import paragraph
from experiments.plan.parser import AddVerb
from experiments.state.failures import REMEDY, Ended, ended_early, grouped
from experiments.state.find import ANY, Found, find, sweeps_named
from experiments.state.state import state_of, states_of
from experiments.store import schema
from experiments.store.files import read_json
from experiments.store.run import Busy, RunDirectory, runs_root
from experiments.store.states import AT_REST
from experiments.tracking.lookup import run_id_of

LISTED = 8  # arms, and seeds of an arm, in a line
ASKED = "asked to stop at its next step"


def register(add: AddVerb) -> None:
    stop = add("cancel", help="stop runs and keep them stopped; what is trained is saved", allow_abbrev=False)
    stop.add_argument("target", metavar="ANY", help=ANY)
    stop.add_argument("arm", nargs="?", metavar="ARM", help="only this arm of the sweep")
    stop.set_defaults(run=cancel)

    fewer = add("throttle", help="how many runs of a sweep may run at a time on its cluster", allow_abbrev=False)
    fewer.add_argument("target", metavar="SWEEP", help="name or label")
    fewer.add_argument("most", type=int, metavar="N", help="at least 1; those that run go on")
    fewer.set_defaults(run=throttle)

    again = add(
        "retry",
        help="runs that ended early, by cause; --yes starts them again",
        allow_abbrev=False,
        description="Lists failed, lost, cancelled and stopped runs, grouped by their error. --yes queues them "
        "again where they came from: here, or on their cluster. The sweep's own --retry does the same.",
    )
    again.add_argument("target", metavar="ANY", help=ANY)
    again.add_argument("arm", nargs="?", metavar="ARM", help="only this arm of the sweep")
    again.add_argument("--yes", action="store_true", help="start them again")
    again.set_defaults(run=retry)


def cancel(options: argparse.Namespace, command: str) -> int:
    """Running ones save and leave at their next step; the others are marked at once and not started any more."""
    root, told = runs_root(), 0
    jobs: list[str] = []
    for run in find(root, options.target, options.arm, tracked=run_id_of):
        state = state_of(root / run.run_id)
        if state.state in AT_REST or state.state == schema.MISSING:
            continue
        directory = RunDirectory(root / run.run_id)
        directory.request_cancel()
        told += 1
        if state.state == schema.QUEUED and (job := (directory.status() or {}).get("job")):
            jobs.append(job)
        print(f"{run.name}  {ASKED if state.state == schema.RUNNING else _mark_cancelled(directory)}")
    if jobs:  # one that begins in this moment finds the request
        from experiments.launch.pack import emptied
        from slurm.submit import cancel as take_from_queue

        take_from_queue(emptied(root, jobs))
    if not told:
        print(f"{options.target}: nothing there is queued, running or stopped midway")
    return 0


def _mark_cancelled(run: RunDirectory) -> str:
    """For a run that nobody works on; one that was begun in the meantime finds the request."""
    try:
        with run.locked():
            status = run.status() or schema.Status()
            if status.get("state") not in AT_REST:
                run.write_status({**status, "state": schema.CANCELLED, "reason": "cancelled on request"})
            return (run.status() or {}).get("state", schema.MISSING)
    except Busy:
        return ASKED


def throttle(options: argparse.Namespace, command: str) -> int:
    """Live, by Slurm's own throttle of arrays. Several arrays of one sweep share the number."""
    from slurm import queue

    if options.most < 1:
        raise ValueError(f"throttle {options.most}: must be at least 1; python -m experiments cancel stops runs")
    if not sweeps_named(root := runs_root(), options.target):
        find(root, options.target, tracked=run_id_of)  # says what is near
        raise ValueError(f"{options.target}: names runs, not a sweep; a throttle holds for a sweep")
    jobs = _jobs(root, find(root, options.target, tracked=run_id_of))
    arrays = queue.live_arrays(list(jobs))
    if not arrays:
        print(f"{options.target}: no job of it is in the queue")
        return 1
    packs = {job.partition("_")[0]: path for job, path in jobs.items()}
    code = 0
    for array, share in queue.shares(arrays, options.most).items():
        pack = (read_json(packs[array] / schema.ENVIRONMENT) or {}).get("pack", 1)
        why = queue.throttle(array, max(1, share // pack))
        print(f"job {array}: {why or f'{max(pack, share // pack * pack)} at a time'}")
        code = 1 if why else code
    for single in (array for array in arrays if not array.elements):
        print(f"job {single.job}: a single job, nothing to throttle")
    return code


def _jobs(root: Path, runs: Sequence[Found]) -> dict[str, Path]:
    """Job -> a run that it has, had or will have."""
    paths = [root / run.run_id for run in runs]
    return {job: path for path in paths if (job := (RunDirectory(path).status() or schema.Status()).get("job"))}


def retry(options: argparse.Namespace, command: str) -> int:
    """The list, and with `--yes` the start."""
    root = runs_root()
    runs = find(root, options.target, options.arm, tracked=run_id_of)
    states = states_of(root, [run.run_id for run in runs])
    wanted = [run for run in runs if may_go_again(states[run.run_id])]
    if not wanted:
        print(f"{options.target}: nothing there failed, was lost, cancelled or stopped midway")
        return 0
    _print_causes([ended_early(root, run, states[run.run_id]) for run in wanted])
    if options.yes:
        return start_again(root, wanted, command)
    print(f"--yes starts {'it' if len(wanted) == 1 else f'these {len(wanted)}'} again")
    return 0


def _print_causes(ended: Sequence[Ended]) -> None:
    told = ""
    for cause, error, runs in grouped(ended):
        if cause != told:
            number = sum(one.cause == cause for one in ended)
            print(
                f"{cause}: {number} {'run' if number == 1 else 'runs'}"
                + (f" ({REMEDY[cause]})" if cause in REMEDY else "")
            )
            told = cause
        print("\n".join(paragraph(f"{len(runs)} x {error}", "  ")))
        print("\n".join(paragraph(_named(runs), "      ")))


def _named(runs: Sequence[Found]) -> str:
    """`K=128 seed 0, 1; K=256 seed 0`, the first arms of many."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(f"{run.arm} seed" if run.arm else "run", []).append(str(run.seed) if run.arm else run.run_id)
    shown = [f"{arm} {', '.join(some[:LISTED])}{', ...' if len(some) > LISTED else ''}" for arm, some in seeds.items()]
    return "; ".join(shown[:LISTED]) + (f"; and {len(shown) - LISTED} more arms" if len(shown) > LISTED else "")
