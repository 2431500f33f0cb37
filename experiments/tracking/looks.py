"""Looks at run directories that cost next to nothing where nothing has changed.

A process that follows a sweep looks every few seconds, beside the training. So a directory is read again only when a
file in it has changed that its mirror is made from; of a run that goes on that is its checkpoint, not its journal, as
what lies behind the checkpoint is not shown.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path

from experiments import schema
from experiments.reconcile import RunState, state_of
from experiments.tracking.mirror import Mirror, mirror_of

WHILE_IT_RUNS = (schema.CONFIG, schema.ATTEMPTS, schema.CHECKPOINT)
AT_REST = (*WHILE_IT_RUNS, schema.JOURNAL, schema.HEARTBEAT, schema.ENCODER, *schema.RUN_ARTIFACTS)


@dataclass(frozen=True)
class Look:
    """What was found in a run directory, and what it was made from. `problems`: what cannot be shown, a line each."""

    state: str
    mirror: Mirror | None
    signature: Hashable
    problems: tuple[str, ...] = ()


@dataclass
class Looks:
    """The last look at every planned cell, by label, run id and arm."""

    known: dict[tuple[str, str, str], Look] = field(default_factory=dict)

    def at(self, runs_root: Path, manifest: schema.Manifest, cell: schema.Cell) -> Look:
        key = (manifest["label"], cell["run_id"], cell["arm"])
        path = runs_root / cell["run_id"]
        state = state_of(path)
        signature = (*_facts(state), _files(path, state))
        before = self.known.get(key)
        if before is None or before.signature != signature:
            self.known[key] = _look(runs_root, manifest, cell, state, signature)
        return self.known[key]


def _look(runs_root: Path, manifest: schema.Manifest, cell: schema.Cell, state: RunState, signature: Hashable) -> Look:
    try:
        mirror = mirror_of(runs_root, manifest, cell)
        return Look(state.state, mirror, signature, mirror.problems if mirror else ())
    except (ValueError, KeyError, OSError) as error:  # a damaged run hides nothing but itself
        problem = f"{cell['run_id']} ({cell['arm']} seed={cell['seed']}) is not in MLflow: {error}"
        return Look(state.state, None, signature, (problem,))


def _facts(state: RunState) -> tuple[Hashable, ...]:
    return state.state, state.reason, state.diverged, state.total_steps


def _files(path: Path, state: RunState) -> tuple[Hashable, ...]:
    names = WHILE_IT_RUNS if state.state == schema.RUNNING else AT_REST
    return tuple(_stat(path / name) for name in names)


def _stat(file: Path) -> tuple[int, int] | None:
    try:
        facts = file.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size
