"""What a launch is about to do: the cells of the plan, their present states, and those that are to run; and its text."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.launch.estimate import estimate
from experiments.launch.grid import counts, grid, many, paragraph
from experiments.launch.options import LaunchOptions
from experiments.launch.way import takes_gpus
from experiments.plan.sweep import Cell, Plan
from experiments.run.machine import Slot, make_slots, visible_gpus
from experiments.state.state import RunState, states_of
from experiments.store import schema
from experiments.store.durations import in_words
from moco.data.catalog import FOLDER

UNKNOWN = "time unknown: no finished run of this kind in this store"


@dataclass(frozen=True)
class LaunchPlan:
    """`cells`: the chosen ones. `states`: of all planned runs, by run id. `to_run`: those of `cells` to start."""

    planned: Plan
    cells: Sequence[Cell]
    states: Mapping[str, RunState]
    to_run: Sequence[Cell]
    options: LaunchOptions

    @staticmethod
    def of(planned: Plan, options: LaunchOptions, cells: Sequence[Cell] | None = None) -> LaunchPlan:
        """Without `cells`, those that --only names. Raises ValueError for an unknown arm."""
        chosen = planned.choose(options.only) if cells is None else cells
        states = states_of(options.place.root, [cell.run_id for cell in planned.cells()])
        to_run = [c for c in chosen if is_to_run(states[c.run_id], retry=options.retry, force=options.force)]
        return LaunchPlan(planned, chosen, states, to_run, options)

    @property
    def root(self) -> Path:
        return self.options.place.root

    def show_table(self) -> None:
        self.options.show_table(self.root, self.planned.label)

    def first(self) -> LaunchPlan:
        """The same with only the first of the runs that are to run."""
        return replace(self, to_run=self.to_run[:1])

    def show(self, would_start: str) -> None:
        """Print the plan with its states, and `would_start`."""
        planned = self.planned
        keyed = {(cell.arm, cell.seed): self.states[cell.run_id] for cell in planned.cells()}
        lines = [
            f"{planned.label} in {self.root}",
            *paragraph(planned.sweep.question),
            f"varies {', '.join(planned.sweep.varies)}",
            "",
            *grid(list(planned.arms), planned.seeds, keyed, planned.baseline),
            "",
            *self.warnings(),
            f"{len(keyed)} runs planned: {counts(keyed.values())}",
            would_start,
        ]
        print("\n".join(lines))

    def would_start(self) -> str:
        """How many runs would start, on how many slots, and the estimated time."""
        if not self.to_run:
            return "nothing to start"
        use_gpus = takes_gpus(self.to_run, gpus=len(visible_gpus()), processes=1)
        places = make_slots(self.options.max_parallel, len(self.to_run), use_gpus=use_gpus)
        slots = len(places)
        known = estimate(self.root, self.to_run, slots)
        if known is None and self.to_run[0].config.data.name == FOLDER:
            return self._by_a_few_steps(places)
        if known is None:
            return f"{len(self.to_run)} to run on {many(slots, 'slot')}; {UNKNOWN}"
        seconds, runs = known
        source = f"{many(runs, 'finished run')} of this kind" if runs else "20 timed steps, readouts not counted"
        return f"{len(self.to_run)} to run on {many(slots, 'slot')}, about {in_words(seconds)} (by {source})"

    def _by_a_few_steps(self, places: Sequence[Slot]) -> str:
        """The time of a folder's runs, which nobody has measured yet, and the cheaper choice. Takes some seconds."""
        from experiments.launch.timing import timed

        text = f"{len(self.to_run)} to run on {many(len(places), 'slot')}"
        print("timing a few steps ...", file=sys.stderr, flush=True)
        found = timed(self.to_run, len(places), places[0].environment)
        if found is None:
            return f"{text}; {UNKNOWN}"
        lines = [f"{text}, about {in_words(found.seconds)} (by a few steps timed now, readouts not counted)"]
        if found.cheaper and found.cheaper_seconds is not None:
            lines += paragraph(f"cheaper: --set {found.cheaper}, about {in_words(found.cheaper_seconds)}")
        return "\n".join(lines)

    def announce(self) -> None:
        """Print warnings and how many runs are to go."""
        now = counts(self.states[cell.run_id] for cell in self.cells)
        text = f"{self.planned.label}: {len(self.to_run)} of {len(self.cells)} runs to go ({now}) in {self.root}"
        print("\n".join([*self.warnings(), *paragraph(text)]), flush=True)

    def warnings(self) -> list[str]:
        return [line for warning in self.planned.warnings for line in paragraph(f"warning: {warning}")]

    def say_nothing_to_start(self) -> int:
        """Print that nothing is to run, and list failed and cancelled runs; returns their number."""
        print(f"{self.planned.label}: nothing to start, {counts(self.states[cell.run_id] for cell in self.cells)}")
        not_done = [cell for cell in self.cells if self.states[cell.run_id].state != schema.DONE]
        for cell in not_done:
            print(f"  {cell.name}  {self.states[cell.run_id].state}: {self.states[cell.run_id].reason}")
        if not_done:
            print("--retry runs them again")
        return len(not_done)


def is_to_run(state: RunState, *, retry: bool, force: bool) -> bool:
    """Whether the pool takes a run in that state. Running ones, too: it waits for those of other processes."""
    if state.state == schema.DONE:
        return force
    if state.state in (schema.FAILED, schema.CANCELLED):
        return retry or force
    return True
