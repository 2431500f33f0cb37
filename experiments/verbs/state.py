"""`status`, `logs`, `find`: where things stand; they change nothing."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from experiments import schema
from experiments.cli import INTERRUPTED
from experiments.grid import counts, grid
from experiments.lookup import ANY, Found, cells_of, find, sweeps_named
from experiments.manifest import all_manifests
from experiments.parser import AddVerb
from experiments.reconcile import AT_REST, state_of
from experiments.run_directory import RunDirectory, runs_root
from experiments.schema import Manifest

FOLLOW_SECONDS = 0.5


def register(add: AddVerb) -> None:
    state = add("status", help="where sweeps and runs stand", allow_abbrev=False)
    state.add_argument("target", nargs="?", metavar="ANY", help=f"{ANY}; without: all sweeps")
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
    if options.target is None:
        manifests = all_manifests(root)
        for manifest in manifests:
            print(f"{manifest['label']}  {counts(state_of(root / run.run_id) for run in cells_of(manifest))}")
        if not manifests:
            print(f"no sweep in {root} yet; start one with python sweeps/queue_size.py")
        return 0
    sweeps = sweeps_named(root, options.target)
    for manifest in sweeps:
        _print_sweep(root, manifest)
    if not sweeps:
        for run in find(root, options.target):
            _print_run(root, run)
    return 0


def _print_sweep(root: Path, manifest: Manifest) -> None:
    states = {(c["arm"], c["seed"]): state_of(root / c["run_id"]) for c in manifest["cells"]}
    print(f"{manifest['label']}: {counts(states.values())}")
    for line in grid(manifest["arms"], manifest["seeds"], states, manifest["baseline"]):
        print(f"  {line}")
    for (arm, seed), state in states.items():
        if state.state in (schema.FAILED, schema.LOST):
            print(f"  {arm} seed {seed}  {state.state}: {state.reason}")


def _print_run(root: Path, run: Found) -> None:
    state = state_of(root / run.run_id)
    print("  ".join(dict.fromkeys(filter(None, [run.run_id, run.name, run.label]))))
    for name, value in asdict(state).items():
        if value not in (None, False):
            print(f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}")
    for line in RunDirectory(root / run.run_id).attempts():
        if line["event"] == "start":
            print(f"  attempt {line['attempt']}: {line['time']} on {line['host']}, process {line['pid']}")
        else:
            print(f"  attempt {line['attempt']}: {line['time']} {line['state']}, {line.get('reason') or 'as planned'}")


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
    log = root / run.run_id / schema.LOG
    if not log.exists():
        return last
    with log.open("rb") as file:
        file.seek(shown[run.run_id])
        text = file.read()
    if not text:
        return last
    shown[run.run_id] += len(text)
    if headed and last != run.run_id:
        print(f"==> {run.name}  {log} <==")
    print(text.decode(errors="replace"), end="", flush=True)
    return run.run_id


def find_runs(options: argparse.Namespace, command: str) -> int:
    root = runs_root()
    for run in find(root, options.target):
        directory = RunDirectory(root / run.run_id)
        jobs = [line["job"] for line in directory.attempts() if line.get("job")]
        last = (directory.status() or {}).get("job") or (jobs[-1] if jobs else None)
        job = f"  job {last}" if last else ""
        print(f"{run.run_id}  {state_of(root / run.run_id).state:<9}  {run.name}  {run.label or '-'}{job}")
    return 0
