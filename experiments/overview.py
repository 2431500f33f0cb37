"""Where a sweep stands, for eyes and for programs: what `status` prints. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments import schema
from experiments.grid import counts, grid, paragraph
from experiments.reconcile import RunState
from experiments.rest import states_of
from experiments.run_directory import RunDirectory
from experiments.schema import Cell, Manifest
from slurm.launch import log_of

LISTED = 10  # runs in words; the rest is counted
BROKEN = (schema.FAILED, schema.LOST, schema.PREEMPTED)
LIVE = (schema.QUEUED, schema.RUNNING)


@dataclass(frozen=True)
class Standing:
    """A sweep at a moment. `states`: by run id."""

    root: Path
    manifest: Manifest
    states: dict[str, RunState]

    @staticmethod
    def of(root: Path, manifest: Manifest) -> Standing:
        return Standing(root, manifest, states_of(root, [cell["run_id"] for cell in manifest["cells"]]))

    @property
    def live(self) -> bool:
        """Something is yet to happen by itself."""
        return any(state.state in LIVE for state in self.states.values())

    def state(self, cell: Cell) -> RunState:
        return self.states[cell["run_id"]]

    def summary(self) -> str:
        return counts(self.state(cell) for cell in self.manifest["cells"])

    def lines(self) -> list[str]:
        """Counts, the grid, and in words what runs and what went wrong."""
        manifest = self.manifest
        keyed = {(cell["arm"], cell["seed"]): self.state(cell) for cell in manifest["cells"]}
        table = grid(manifest["arms"], manifest["seeds"], keyed, manifest["baseline"])
        return [
            f"{manifest['label']}: {self.summary()}",
            *(f"  {line}" for line in table),
            *self._listed([c for c in manifest["cells"] if self.state(c).state == schema.RUNNING], _pace),
            *self._listed([c for c in manifest["cells"] if self.state(c).state in BROKEN], _reason),
            *self._never_begun(),
        ]

    def _listed(self, cells: Sequence[Cell], words: Any) -> Iterator[str]:
        for cell in cells[:LISTED]:
            yield f"  {cell['arm']} seed {cell['seed']}  {words(self.state(cell))}"
        if len(cells) > LISTED:
            more = f"  and {len(cells) - LISTED} more {self.state(cells[-1]).state}"
            broken = self.state(cells[-1]).state in BROKEN
            yield more + (
                f": python -m experiments retry {self.manifest['label']} sorts them by cause" if broken else ""
            )

    def _never_begun(self) -> Iterator[str]:
        """Jobs that ended before their run began: what the first of them has to say."""
        cells = [c for c in self.manifest["cells"] if self.state(c).state == schema.MISSING and self.state(c).reason]
        yield from self._listed(cells, _reason)
        for cell in cells[:1]:
            yield from never_begun(self.root, cell["run_id"])

    def plain(self) -> dict[str, Any]:
        """For `--json`. `job` only of runs that are not at rest: the others need not be read."""
        return {
            "label": self.manifest["label"],
            "baseline": self.manifest["baseline"],
            "cells": [self._plain(cell) for cell in self.manifest["cells"]],
        }

    def _plain(self, cell: Cell) -> dict[str, Any]:
        state, run_id = self.state(cell), cell["run_id"]
        live = state.state in LIVE
        job = (RunDirectory(self.root / run_id).status() or schema.Status()).get("job") if live else None
        return {"arm": cell["arm"], "seed": cell["seed"], "run_id": run_id, **asdict(state), "job": job}


def never_begun(root: Path, run_id: str) -> list[str]:
    """Why a job may have ended before its run began: its own last line, or the likely reason for there being none."""
    job = (RunDirectory(root / run_id).status() or schema.Status()).get("job")
    if not job:
        return []
    log = log_of(root / schema.SLURM_FOLDER, job)
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log else []
    if said:
        return [f"    job {job} said: {said[-1]}"]
    text = f"job {job} left no log. Can the nodes see {root}? python -m experiments doctor --cluster NAME tells"
    return paragraph(text, "    ")


def _pace(state: RunState) -> str:
    facts = [
        f"running {state.share:.0%}" if state.share is not None else "running",
        f"{state.images_per_s:.0f} images/s" if state.images_per_s is not None else "",
        f"kNN {state.knn:.1f}" if state.knn is not None else "",
    ]
    return "  ".join(filter(None, facts))


def _reason(state: RunState) -> str:
    return f"{state.state}: {state.reason}"
