"""`cancel`, `throttle`, `retry`: the commands that change queued or running runs, and start again those that failed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.launch.cluster import may_retry, retry_runs
from experiments.launch.grid import paragraph
from experiments.launch.submissions import keep_limit
from experiments.plan.parser import AddVerb
from experiments.run.cluster import DEFAULT, Array, Cluster, array_of, cluster_named
from experiments.state.failures import REMEDY, Ended, ended_early, grouped
from experiments.state.find import ANY, Found, find, sweeps_named
from experiments.state.state import state_of, states_of
from experiments.store import causes, schema
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
    """Running runs save and end at their next step; the others are marked cancelled at once and not started again."""
    root, count = runs_root(), 0
    jobs: dict[str, list[str]] = {}  # cluster -> job ids
    for run in find(root, options.target, options.arm, tracked=run_id_of):
        state = state_of(root / run.run_id)
        if state.state in AT_REST or state.state == schema.MISSING:
            continue
        directory = RunDirectory(root / run.run_id)
        directory.request_cancel()
        count += 1
        status = directory.status() or schema.Status()
        if state.state == schema.QUEUED and (job := status.get("job")):
            jobs.setdefault(status.get("cluster", DEFAULT), []).append(job)
        print(f"{run.name}  {ASKED if state.state == schema.RUNNING else _mark_cancelled(directory)}")
    for cluster, ids in jobs.items():  # a job that begins right now finds the request
        from experiments.launch.pack import jobs_without_runs

        cluster_named(cluster).cancel(jobs_without_runs(root, ids))
    if not count:
        print(f"{options.target}: nothing there is queued, running or stopped midway")
    return 0


def _mark_cancelled(run: RunDirectory) -> str:
    """Mark a run cancelled that no process works on. Returns its state; one that has just begun finds the request."""
    try:
        with run.locked():
            status = run.status() or schema.Status()
            if status.get("state") not in AT_REST:
                reason, cause = "cancelled on request", causes.CANCELLED
                run.write_status({**status, "state": schema.CANCELLED, "reason": reason, "cause": cause})
            return (run.status() or {}).get("state", schema.MISSING)
    except Busy:
        return ASKED


def throttle(options: argparse.Namespace, command: str) -> int:
    """Limit the runs of a sweep by its cluster's throttle of arrays; several arrays share the limit."""
    if options.most < 1:
        raise ValueError(f"throttle {options.most}: must be at least 1; python -m experiments cancel stops runs")
    if not sweeps_named(root := runs_root(), options.target):
        find(root, options.target, tracked=run_id_of)  # raises ValueError, with the nearest name, for an unknown one
        raise ValueError(f"{options.target}: names runs, not a sweep; a throttle holds for a sweep")
    paths = [root / run.run_id for run in find(root, options.target, tracked=run_id_of)]
    jobs: dict[str, dict[str, Path]] = {}  # cluster -> job -> a run of the job
    for path in paths:
        status = RunDirectory(path).status() or schema.Status()
        if job := status.get("job"):
            jobs.setdefault(status.get("cluster", DEFAULT), {})[job] = path
    arrays = {name: cluster_named(name).arrays(list(of_cluster)) for name, of_cluster in jobs.items()}
    if not any(arrays.values()):
        print(f"{options.target}: no job of it is in the queue")
        return 1
    for manifest in sweeps_named(root, options.target):
        keep_limit(root, manifest["label"], options.most)
    return max(_throttle(cluster_named(name), arrays[name], jobs[name], options.most) for name in jobs)


def _throttle(cluster: Cluster, arrays: Sequence[Array], jobs: Mapping[str, Path], most: int) -> int:
    """Throttle the arrays of one cluster and return the exit code. The cluster counts jobs, each with several runs."""
    runs, code = {array_of(job): path for job, path in jobs.items()}, 0
    for array, share in shares(arrays, most).items():
        pack = (read_json(runs[array] / schema.ENVIRONMENT) or {}).get("pack", 1)
        why = cluster.throttle(array, max(1, share // pack))
        print(f"job {array}: {why or f'{max(pack, share // pack * pack)} at a time'}")
        code = 1 if why else code
    for single in (array for array in arrays if not array.elements):
        print(f"job {single.job}: a single job, nothing to throttle")
    return code


def shares(arrays: Sequence[Array], total: int) -> dict[str, int]:
    """A throttle for each array, so that together they run `total` at a time; at least one each.

    An array that waits for another one gets the whole number, as the other has ended by then.
    """
    now = [array.job for array in arrays if not array.behind]
    split = {job: max(1, total // len(now) + (n < total % len(now))) for n, job in enumerate(now)}
    return {array.job: split.get(array.job, total) for array in arrays if array.elements}


def retry(options: argparse.Namespace, command: str) -> int:
    """List the runs that ended early, by cause; with `--yes`, start them again."""
    root = runs_root()
    runs = find(root, options.target, options.arm, tracked=run_id_of)
    states = states_of(root, [run.run_id for run in runs])
    wanted = [run for run in runs if may_retry(states[run.run_id])]
    if not wanted:
        print(f"{options.target}: nothing there failed, was lost, cancelled or stopped midway")
        return 0
    _print_failures([ended_early(root, run, states[run.run_id]) for run in wanted])
    if options.yes:
        return retry_runs(root, wanted, command)
    print(f"--yes starts {'it' if len(wanted) == 1 else f'these {len(wanted)}'} again")
    return 0


def _print_failures(ended: Sequence[Ended]) -> None:
    last = ""
    for cause, error, runs in grouped(ended):
        if cause != last:
            number = sum(one.cause == cause for one in ended)
            print(
                f"{cause}: {number} {'run' if number == 1 else 'runs'}"
                + (f" ({REMEDY[cause]})" if cause in REMEDY else "")
            )
            last = cause
        print("\n".join(paragraph(f"{len(runs)} x {error}", "  ")))
        print("\n".join(paragraph(_named(runs), "      ")))


def _named(runs: Sequence[Found]) -> str:
    """`K=128 seed 0, 1; K=256 seed 0`; of many, the first arms and seeds."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(f"{run.arm} seed" if run.arm else "run", []).append(str(run.seed) if run.arm else run.run_id)
    shown = [f"{arm} {', '.join(some[:LISTED])}{', ...' if len(some) > LISTED else ''}" for arm, some in seeds.items()]
    return "; ".join(shown[:LISTED]) + (f"; and {len(shown) - LISTED} more arms" if len(shown) > LISTED else "")
