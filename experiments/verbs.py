"""What `python -m experiments VERB` does, one function per verb; each returns the exit code."""

from __future__ import annotations

import argparse
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from experiments import schema
from experiments.cli import INTERRUPTED, base_configs
from experiments.grid import counts, grid, paragraph
from experiments.lookup import Found, cells_of, find, sweeps_named
from experiments.manifest import all_manifests
from experiments.reconcile import AT_REST, state_of
from experiments.run_directory import Busy, RunDirectory, runs_root
from experiments.schema import Manifest
from experiments.sweep import Cell, make_cell

FOLLOW_SECONDS = 0.5
ASKED = "asked to stop at its next step"


def pretrain(options: argparse.Namespace, command: str) -> int:
    """One run in this process; a finished one is only shown."""
    from dataclasses import replace

    from experiments.checks import check_sizes, warnings
    from experiments.launch import Launch
    from moco.data.catalog import resolve

    config, _ = base_configs(options.baseline, options.set)
    config = replace(config, data=resolve(config.data))
    check_sizes(options.baseline, config)
    cell, root = make_cell(options.baseline, config.train.seed, config), runs_root()
    for warning in warnings({options.baseline: config}):
        print("\n".join(paragraph(f"warning: {warning}")))
    if state_of(root / cell.run_id).state != schema.DONE:
        launch = Launch(root, options.baseline, [cell], command)
        launch.enqueue()
        try:
            state = launch.run_here(cell, reraise=True)
        except Busy as busy:
            print(f"{busy}; nothing started")
            return 1
        except Exception as error:
            if not (isinstance(error, ValueError) or type(error).__name__ == "Diverged"):  # those say it in one line
                traceback.print_exc()
            print(f"log: {root / cell.run_id / schema.LOG}")
            return 1
        if state != schema.DONE:
            print(f"{state}: the same command goes on from there  {root / cell.run_id}")
            return INTERRUPTED if state == schema.PREEMPTED else 1
    _print_results(cell, root)
    return 0


def _print_results(cell: Cell, root: Path) -> None:
    results = RunDirectory(root / cell.run_id).results() or schema.Results()
    print_readouts({f"test/{name}": value for name, value in results.get("test", {}).items()})
    print(f"done in {results.get('seconds', 0.0):.1f} s  {root / cell.run_id}")


def print_readouts(readouts: dict[str, float | None]) -> None:
    width = max(map(len, readouts), default=0)
    for name, value in readouts.items():
        print(f"{name:<{width}}  {'-' if value is None else f'{value:.4g}'}")


def evaluate(options: argparse.Namespace, command: str) -> int:
    from experiments.evaluate import DEFAULT
    from experiments.evaluate import evaluate as readouts_of

    target, root = Path(options.target), runs_root()
    if not target.exists():
        found = find(root, options.target)
        if len(found) > 1:
            raise ValueError(f"{options.target}: names {len(found)} runs; choose one, by its run id: {_ids(found)}")
        target = root / found[0].run_id
    print_readouts(readouts_of(target, options.protocol or DEFAULT))
    return 0


def _ids(found: Sequence[Found]) -> str:
    return ", ".join(f"{run.run_id} ({run.name})" for run in found[:6]) + (", ..." if len(found) > 6 else "")


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


def find_runs(options: argparse.Namespace, command: str) -> int:
    root = runs_root()
    for run in find(root, options.target):
        directory = RunDirectory(root / run.run_id)
        jobs = [line["job"] for line in directory.attempts() if line.get("job")]
        last = (directory.status() or {}).get("job") or (jobs[-1] if jobs else None)
        job = f"  job {last}" if last else ""
        print(f"{run.run_id}  {state_of(root / run.run_id).state:<9}  {run.name}  {run.label or '-'}{job}")
    return 0


def ui(options: argparse.Namespace, command: str) -> int:
    from experiments.tracking import serve_ui

    serve_ui(runs_root(), options.sweep, options.port)
    return 0


def sync(options: argparse.Namespace, command: str) -> int:
    from experiments.tracking import sync as bring_up_to_date

    report = bring_up_to_date(runs_root(), options.sweep, options.follow)
    print(report)
    return 1 if report.warnings else 0
