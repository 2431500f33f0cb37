"""`cancel`: change what is queued or running."""

from __future__ import annotations

import argparse

from experiments import schema
from experiments.lookup import ANY, find
from experiments.parser import AddVerb
from experiments.reconcile import AT_REST, state_of
from experiments.run_directory import Busy, RunDirectory, runs_root

ASKED = "asked to stop at its next step"


def register(add: AddVerb) -> None:
    stop = add("cancel", help="stop runs and keep them stopped; what is trained is saved", allow_abbrev=False)
    stop.add_argument("target", metavar="ANY", help=ANY)
    stop.add_argument("arm", nargs="?", metavar="ARM", help="only this arm of the sweep")
    stop.set_defaults(run=cancel)


def cancel(options: argparse.Namespace, command: str) -> int:
    """Running ones save and leave at their next step; the others are marked at once and not started any more."""
    root, told = runs_root(), 0
    jobs: list[str] = []
    for run in find(root, options.target, options.arm):
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
        from slurm.launch import cancel as take_from_queue

        take_from_queue(jobs)
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
