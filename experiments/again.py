"""Runs that ended early, started again where they came from: in the pool of this machine, or on their cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from experiments import schema
from experiments.durable import read_json
from experiments.lookup import Found
from experiments.manifest import read_manifest
from experiments.reconcile import RunState
from experiments.run_directory import RunDirectory
from experiments.sweep import Cell
from slurm.profiles import load_profile

AGAIN = (schema.FAILED, schema.CANCELLED, schema.LOST, schema.PREEMPTED)


def may_go_again(state: RunState) -> bool:
    """Also a job that ended before its run began; what was never submitted is for the sweep's own command."""
    return state.state in AGAIN or (state.state == schema.MISSING and state.reason is not None)


def start_again(root: Path, runs: Sequence[Found], command: str) -> int:
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
    config = RunDirectory(root / run.run_id).config()
    return Cell(run.arm or run.run_id, config.train.seed, config, run.run_id)


def _start(root: Path, cluster: str | None, label: str | None, cells: Sequence[Cell], command: str) -> int:
    from experiments.launch import Launch, summary, tracking

    launch, began = Launch(root, label or cells[0].name, cells, command), time.monotonic()
    if cluster is not None:
        from experiments.cluster import say_how_to_follow, submit_cells
        from experiments.sight import looked_at

        profile = load_profile(cluster)
        look = looked_at(root, profile)
        jobs = submit_cells(launch, profile, None, planned=_planned(root, label), only_if=look)
        say_how_to_follow(launch.title, jobs, profile, None)
        return 0
    launch.enqueue()
    with tracking(root, label) if label else nullcontext():
        completed = launch.run(None)
    return summary(root, cells, began, interrupted=not completed)


def _planned(root: Path, label: str | None) -> dict[str, str] | None:
    manifest = read_manifest(root, label) if label else None
    return {c["run_id"]: f"{c['arm']} seed {c['seed']}" for c in manifest["cells"]} if manifest else None
