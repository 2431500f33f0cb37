"""`status`, `logs`, `find`: where things stand; they change nothing."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments import schema
from experiments.cli import INTERRUPTED
from experiments.lookup import ANY, Found, find, mlflow_runs, sweeps_named
from experiments.manifest import all_manifests
from experiments.overview import LIVE, Standing, never_begun
from experiments.parser import AddVerb
from experiments.reconcile import RunState, state_of
from experiments.run_directory import RunDirectory, runs_root
from experiments.states import AT_REST
from experiments.watch import watch
from slurm.control import accounted, accounts
from slurm.launch import log_of

FOLLOW_SECONDS = 0.5


def register(add: AddVerb) -> None:
    state = add("status", help="where sweeps and runs stand", allow_abbrev=False)
    state.add_argument("target", nargs="?", metavar="ANY", help=f"{ANY}; without: all sweeps")
    state.add_argument("--watch", "-w", action="store_true", help="go on until nothing is queued or running")
    state.add_argument("--json", action="store_true", help="for programs")
    state.set_defaults(run=status)

    log = add("logs", help="what runs have said", allow_abbrev=False)
    log.add_argument("target", metavar="ANY", help=ANY)
    log.add_argument("arm", nargs="?", metavar="ARM", help="only this arm of the sweep")
    log.add_argument("--follow", "-f", action="store_true", help="go on until all of them have ended")
    log.set_defaults(run=logs)

    search = add("find", help="which runs a name leads to", allow_abbrev=False)
    search.add_argument("target", metavar="ANY", help=ANY)
    search.set_defaults(run=find_runs)


def status(options: argparse.Namespace, command: str) -> int:
    """All sweeps in a line each; one sweep as a grid; one run with its attempts."""
    root = runs_root()
    if options.json:
        print(json.dumps(_plain(root, options.target), indent=1))
        return 0
    if options.watch:
        return watch(lambda: _page(root, options.target))
    print("\n".join(_page(root, options.target)[0]))
    return 0


def _page(root: Path, target: str | None) -> tuple[list[str], bool]:
    """What to print, and whether it may still change by itself."""
    found = _standings(root, target)
    if target is None:
        empty = [] if found else [f"no sweep in {root} yet; start one with python sweeps/queue_size.py"]
        lines = [f"{one.manifest['label']}  {one.summary()}" for one in found] + empty
        return lines, any(one.live for one in found)
    if found:
        return [line for one in found for line in one.lines()], any(one.live for one in found)
    runs = find(root, target)
    live = any(state_of(root / run.run_id).state in LIVE for run in runs)
    return [line for run in runs for line in _run_lines(root, run)], live


def _standings(root: Path, target: str | None) -> list[Standing]:
    manifests = all_manifests(root) if target is None else sweeps_named(root, target)
    return [Standing.of(root, manifest) for manifest in manifests]


def _plain(root: Path, target: str | None) -> list[dict[str, Any]]:
    """Sweeps as they stand; a run, or the runs of an arm, as cells of no sweep."""
    found = [one.plain() for one in _standings(root, target)]
    if found or target is None:
        return found
    runs = find(root, target)
    jobs = {run.run_id: _job(root / run.run_id) for run in runs}
    facts = accounts([job for job in jobs.values() if job])
    return [
        {
            "run_id": run.run_id,
            "arm": run.arm,
            "seed": run.seed,
            "label": run.label,
            **asdict(state_of(root / run.run_id)),
            "job": jobs[run.run_id],
            "accounting": facts.get(jobs[run.run_id] or ""),  # by sacct's names; null where Slurm keeps no accounts
        }
        for run in runs
    ]


def _run_lines(root: Path, run: Found) -> Iterator[str]:
    state, directory = state_of(root / run.run_id), RunDirectory(root / run.run_id)
    yield "  ".join(dict.fromkeys(filter(None, [run.run_id, run.name, run.label])))
    for name, value in asdict(state).items():
        if value not in (None, False):
            yield f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}"
    for line in directory.attempts():
        if line["event"] == "start":
            yield f"  attempt {line['attempt']}: {line['time']} on {line['host']}, process {line['pid']}"
        else:
            yield f"  attempt {line['attempt']}: {line['time']} {line['state']}, {line.get('reason') or 'as planned'}"
    if job := (directory.status() or schema.Status()).get("job"):
        yield from _job_lines(root, run, state, job)


def _job_lines(root: Path, run: Found, state: RunState, job: str) -> Iterator[str]:
    """What Slurm's accounting adds, where there is one; and why a job may have ended before the run began."""
    yield f"  job: {job}"
    if facts := accounted(job):
        yield f"  accounting: {', '.join(f'{name} {value}' for name, value in facts.items())}"
    if state.state == schema.MISSING:
        yield from never_begun(root, run.run_id)


def logs(options: argparse.Namespace, command: str) -> int:
    """The logs of the runs named, one after the other; `--follow` prints what comes until all have ended."""
    root = runs_root()
    shown: dict[str, int] = defaultdict(int)
    found = find(root, options.target, options.arm)
    last = ""
    with suppress(KeyboardInterrupt):
        while True:
            resting = all(state_of(root / run.run_id).state in (*AT_REST, schema.MISSING) for run in found)
            for run in found:
                last = _print_new(root, run, shown, last, headed=len(found) > 1)
            if resting or not options.follow:
                return 0
            time.sleep(FOLLOW_SECONDS)
    return INTERRUPTED


def _print_new(root: Path, run: Found, shown: dict[str, int], last: str, *, headed: bool) -> str:
    """Print what the log has gained; returns the run whose lines stand last."""
    log = _log(root / run.run_id)
    if log is None:
        return last
    with log.open("rb") as file:
        file.seek(shown[str(log)])
        text = file.read()
    if not text:
        return last
    shown[str(log)] += len(text)
    if headed and last != run.run_id:
        print(f"==> {run.name}  {log} <==")
    print(text.decode(errors="replace"), end="", flush=True)
    return run.run_id


def _log(run: Path) -> Path | None:
    """The run's own; of a job that ended before its run began, the job's. It is looked for while nothing else is there."""
    own = run / schema.LOG
    if own.exists():
        return own
    job = (RunDirectory(run).status() or schema.Status()).get("job")
    return log_of(run.parent / schema.SLURM_FOLDER, job) if job else None


def find_runs(options: argparse.Namespace, command: str) -> int:
    root = runs_root()
    found = find(root, options.target)
    last = {run.run_id: _job(root / run.run_id) for run in found}
    facts = accounts([job for job in last.values() if job])
    for run in found:
        job = f"  job {last[run.run_id]}{_in_accounts(facts.get(last[run.run_id] or ''))}" if last[run.run_id] else ""
        mlflow = "".join(f"  mlflow {id}" for id in mlflow_runs(root, run.run_id))
        print(f"{run.run_id}  {state_of(root / run.run_id).state:<9}  {run.name}  {run.label or '-'}{job}{mlflow}")
    return 0


def _job(path: Path) -> str | None:
    """The Slurm job that has the run, or had it last."""
    directory = RunDirectory(path)
    jobs = [line["job"] for line in directory.attempts() if line.get("job")]
    return (directory.status() or {}).get("job") or (jobs[-1] if jobs else None)


def _in_accounts(facts: Mapping[str, str] | None) -> str:
    """` (COMPLETED, 00:01:12 on n0)`"""
    return f" ({facts.get('State')}, {facts.get('Elapsed')} on {facts.get('NodeList')})" if facts else ""
