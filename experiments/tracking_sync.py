"""Bring MLflow up to date with the run directories: once, or for as long as a sweep runs."""

from __future__ import annotations

import difflib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from experiments import schema
from experiments.lookup import sweeps_named
from experiments.manifest import all_manifests
from experiments.reconcile import state_of
from experiments.tracking_store import open_store, shown, user_uri
from experiments.tracking_sweep import Tally, mirror_sweep

FOLLOW_SECONDS = 15.0  # between two looks: a look costs as much as a few training steps
NICE = 10  # training comes first on a small machine
ENDED = (schema.DONE, schema.FAILED, schema.CANCELLED, schema.LOST)


@dataclass(frozen=True)
class SyncReport:
    """What a sync wrote. `warnings`, a line each: what could not be brought over; the next sync tries again."""

    runs: int = 0  # runs of MLflow that were created or changed, the parents of the sweeps among them
    points: int = 0  # values of metrics sent
    warnings: tuple[str, ...] = ()
    uri: str = field(default="", compare=False)

    def __str__(self) -> str:
        written = f"{self.runs} runs and {self.points} values written" if self.runs else "up to date"
        return "\n".join([f"MLflow: {written} ({self.uri})", *self.warnings])


def manifests(runs_root: Path, label: str | None = None) -> list[schema.Manifest]:
    """The planned sweeps: all, the one of a label, or those of a sweep's name. Raises ValueError for an unknown one."""
    everything = all_manifests(runs_root)
    chosen = everything if label is None else sweeps_named(runs_root, label)
    if label is None or chosen:
        return chosen
    names = sorted({m["label"] for m in everything} | {m["name"] for m in everything})
    near = difflib.get_close_matches(label, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names) or 'none, run a sweep first'}"
    raise ValueError(f"no sweep {label} in {runs_root}; {hint}")


def sync(runs_root: Path, label: str | None = None, follow: bool = False) -> SyncReport:
    """Mirror the sweeps of `runs_root` (one by label or name, or all) to MLflow; nothing is sent twice.

    A store that is down is a warning in the report, never an error: the runs are safe in their directories. `follow`
    repeats it until every run of the sweep has ended, the parent process is gone, or SIGTERM asks to finish.
    Raises ValueError for a label that no sweep has.
    """
    return _follow(runs_root, label) if follow else _sync_once(runs_root, label, Tally())


def _sync_once(runs_root: Path, label: str | None, tally: Tally) -> SyncReport:
    """One look. `tally` has what earlier looks wrote; the warnings are those of this one."""
    chosen = manifests(runs_root, label)
    tally.warnings.clear()
    uri = user_uri() or str(runs_root / schema.MLFLOW_DATABASE)
    try:
        if chosen:
            client = open_store(runs_root)
            for manifest in chosen:
                mirror_sweep(client, runs_root, manifest, tally)
    except Exception as error:  # mlflow's, its database's and its transport's: none of them may stop a launcher
        reason = shown(uri, str(error).strip() or type(error).__name__).splitlines()[0][:200]
        tally.warnings.append(f"MLflow at {shown(uri)} is not up to date ({reason}); the next sync catches up")
    return SyncReport(len(tally.runs), tally.points, tuple(tally.warnings), shown(uri))


def _follow(runs_root: Path, label: str | None) -> SyncReport:
    parent, tally, report = os.getppid(), Tally(), SyncReport()
    os.nice(NICE)
    with _held_back(signal.SIGTERM):
        finish = False
        while True:
            finish = finish or os.getppid() != parent or _all_ended(manifests(runs_root, label), runs_root)
            known, report = report.warnings, _sync_once(runs_root, label, tally)
            if finish:
                return report
            for warning in report.warnings:
                if warning not in known:
                    print(warning, flush=True)
            finish = signal.sigtimedwait([signal.SIGTERM], FOLLOW_SECONDS) is not None


@contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """The signal waits until it is asked for, so that it never cuts a write short."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _all_ended(chosen: list[schema.Manifest], runs_root: Path) -> bool:
    return all(state_of(runs_root / cell["run_id"]).state in ENDED for m in chosen for cell in m["cells"])
