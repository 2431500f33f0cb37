"""`sync`: bring MLflow up to date with the run directories, once or for as long as a sweep runs."""

from __future__ import annotations

import math
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.manifests import all_manifests
from experiments.store.mlflow import without_login
from experiments.store.named import named, names, nearest
from experiments.store.search_record import all_records
from experiments.tracking.push import Tally
from experiments.tracking.store import open_store, user_uri
from experiments.tracking.sweep import Memory, Question, mirror_sweep, read_question

FOLLOW_SECONDS, MOST_SECONDS = 15.0, 120.0  # between two rounds of a sync that follows a sweep
SHARE = 0.02  # of one processor that following may take on average: the pause is longer after an expensive round
NICE = 10  # training comes first on a small machine
ENDED = (schema.DONE, schema.PRUNED, schema.FAILED, schema.CANCELLED, schema.LOST)


@dataclass(frozen=True)
class SyncReport:
    """What a sync wrote. `warnings`: what could not be written, a line each; the next sync tries again."""

    runs: int = 0  # runs of MLflow that were created or changed, the parents of the sweeps among them
    points: int = 0  # values of metrics sent
    warnings: tuple[str, ...] = ()
    uri: str = field(default="", compare=False)

    def __str__(self) -> str:
        nothing = "nothing written" if self.warnings else "up to date"
        written = f"{self.runs} runs and {self.points} values written" if self.runs else nothing
        return "\n".join([f"MLflow: {written} ({self.uri})", *self.warnings])


def manifests(runs_root: Path, label: str | None = None) -> list[schema.Manifest]:
    """The planned sweeps and searches: all, the one of a label, or those of a name. Raises ValueError for an unknown one."""
    known = all_manifests(runs_root)
    chosen = known if label is None else named(known, label)
    if label is None or chosen:
        return chosen
    choices = sorted(names(known))
    near = nearest(label, choices)
    hint = f"did you mean {near}?" if near else f"known: {', '.join(choices) or 'none, run a sweep first'}"
    raise ValueError(f"no sweep {label} in {runs_root}; {hint}")


def sync(runs_root: Path, label: str | None = None, follow: bool = False, alone: bool = False) -> SyncReport:
    """Mirror the sweeps of `runs_root` (one by label or name, or all) to MLflow; nothing is sent twice.

    A store that is down is a warning in the report, never an error: the runs are safe in their directories. `follow`
    repeats it until every run of the sweep has ended, the parent process is gone (`alone`: it may go), or SIGTERM asks
    to finish.
    Raises ValueError for a label that no sweep has.
    """
    return _follow(runs_root, label, alone) if follow else _sync_once(runs_root, label, Tally(), Memory())


def _sync_once(runs_root: Path, label: str | None, tally: Tally, memory: Memory) -> SyncReport:
    """One round. `tally` adds up the rounds; its warnings are those of this one.

    Sweeps that have not changed since `memory` says they were sent are skipped, without asking the store.
    """
    tally.warnings.clear()
    searches = {record["label"]: record for record in all_records(runs_root)}
    chosen = [
        read_question(runs_root, manifest, searches.get(manifest["label"]), memory.cache, tally)
        for manifest in manifests(runs_root, label)
    ]
    uri = user_uri() or str(runs_root / schema.MLFLOW_DATABASE)
    try:
        for question in chosen:
            _send(runs_root, question, tally, memory)
    except Exception as error:  # mlflow's, its database's and its transport's: none of them may stop a launcher
        text = re.sub(r" object at 0x[0-9a-f]+", "", str(error).strip())  # the same trouble in the same words
        reason = without_login(uri, text or type(error).__name__).splitlines()[0][:200]
        tally.warnings.append(f"MLflow at {without_login(uri)} is not up to date ({reason}); the next sync catches up")
    return SyncReport(len(tally.runs), tally.points, tuple(tally.warnings), without_login(uri))


def _send(runs_root: Path, question: Question, tally: Tally, memory: Memory) -> None:
    label, signature = question.manifest["label"], question.signature
    if memory.sent.get(label) != signature:
        mirror_sweep(open_store(runs_root), runs_root, question, tally)
        memory.sent[label] = signature


def _follow(runs_root: Path, label: str | None, alone: bool) -> SyncReport:
    parent, tally, report, memory = os.getppid(), Tally(), SyncReport(), Memory()
    os.nice(NICE)
    with _held_back(signal.SIGTERM):
        finish, began = False, math.inf  # the first round, which loads mlflow, counts as free
        while True:
            finish = (
                finish or (os.getppid() != parent and not alone) or _all_ended(manifests(runs_root, label), runs_root)
            )
            memory = Memory() if finish else memory  # the last round asks the store about everything
            known, report = report.warnings, _sync_once(runs_root, label, tally, memory)
            if finish:
                return report
            for warning in report.warnings:
                if warning not in known:
                    print(warning, flush=True)
            cost, began = time.process_time() - began, time.process_time()
            finish = signal.sigtimedwait([signal.SIGTERM], pause(cost)) is not None


def pause(cost: float) -> float:
    """Seconds until the next round, after one that took `cost` seconds of a processor."""
    return min(max(FOLLOW_SECONDS, cost / SHARE), MOST_SECONDS)


@contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """Block the signal, so that it never interrupts a write; `sigtimedwait` takes it between rounds."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _all_ended(chosen: list[schema.Manifest], runs_root: Path) -> bool:
    states = (state_of(runs_root / cell["run_id"]).state for m in chosen for cell in m["cells"])
    return not any(m.get("open", False) for m in chosen) and all(state in ENDED for state in states)
