"""`--until-significant`: more seeds for the arms that are not told apart from the baseline yet, and for the baseline.

After each round the analysis is asked, which judges by a p that holds wherever one stops (`analysis.stats`),
because the plan says from the first round on that seeds are added by what they show. The same command goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.launch.grid import paragraph
from experiments.launch.launch_plan import LaunchPlan
from experiments.launch.options import FIRST_DECISION, MAX_SEEDS, LaunchOptions
from experiments.plan.manifest import add_seeds, write_manifest
from experiments.plan.sweep import Cell, Plan
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.manifests import read_manifest


@dataclass
class Rounds:
    """`planned` gives the plan with so many seeds; `start` brings a launch plan to its end and returns the exit code.

    `undecided` says which arms of the sweep with a label are not told apart from its baseline.
    """

    planned: Callable[[int], Plan]
    start: Callable[[LaunchPlan], int]
    undecided: Callable[[Path, str], list[str]]
    options: LaunchOptions

    @property
    def root(self) -> Path:
        return self.options.place.root

    @property
    def most(self) -> int:
        return self.options.max_seeds or MAX_SEEDS

    def run(self, seeds: int) -> int:
        """The exit code of the last round that started something."""
        seeds, at_once = min(max(seeds, FIRST_DECISION), self.most), self.options.max_parallel or 1
        first = self.planned(seeds)
        write_manifest(self.root, first, self.options.command)
        add_seeds(self.root, first, [], self.most)
        code = self._round(first, first.choose(self.options.only))
        while code in (0, 1):
            waiting = self._undecided(first)
            seeds = max(seeds, self._seeds_of(first, waiting))
            cells = self._cells(waiting, seeds)
            if waiting and seeds < self.most and all(self._is_at_rest(cell) for cell in cells):
                seeds = min(self.most, seeds + max(1, at_once // (len(waiting) + 1)))
                cells = self._cells(waiting, seeds)
            if all(self._is_at_rest(cell) for cell in cells):
                self._say_the_end(waiting, seeds)
                return code
            print(f"{seeds} seeds for {', '.join([first.baseline, *waiting])}: not told apart yet", flush=True)
            add_seeds(self.root, self.planned(seeds), cells, self.most)
            code = self._round(self.planned(seeds), cells)
        return code

    def _round(self, plan: Plan, cells: Sequence[Cell]) -> int:
        launch_plan = LaunchPlan.of(plan, self.options, cells)
        if not launch_plan.to_run:
            return 0
        # What fails again stays failed: a round must not go on for ever.
        self.options = replace(self.options, retry=False)
        launch_plan.announce()
        return self.start(launch_plan)

    def _cells(self, waiting: Sequence[str], seeds: int) -> list[Cell]:
        """Nothing where every arm is decided."""
        plan = self.planned(seeds)
        return plan.choose([plan.baseline, *waiting]) if waiting else []

    def _is_at_rest(self, cell: Cell) -> bool:
        return state_of(self.root / cell.run_id).state in (schema.DONE, schema.FAILED, schema.CANCELLED, schema.PRUNED)

    def _undecided(self, plan: Plan) -> list[str]:
        arms = {plan.arm_named(name) for name in self.options.only} if self.options.only else set(plan.arms)
        return [arm for arm in self.undecided(self.root, plan.label) if arm in arms]

    def _seeds_of(self, plan: Plan, arms: Sequence[str]) -> int:
        """What an earlier command has planned for these arms, within the limit of this one."""
        manifest = read_manifest(self.root, plan.label)
        planned = [cell["seed"] + 1 for cell in manifest["cells"] if cell["arm"] in arms] if manifest else []
        return min(max(planned, default=0), self.most)

    def _say_the_end(self, waiting: Sequence[str], seeds: int) -> None:
        if waiting:
            text = f"--until-significant: at {seeds} seeds, the most allowed, not told apart: {', '.join(waiting)}"
        else:
            text = "--until-significant: every arm is told apart from the baseline"
        print("\n".join(paragraph(text)), flush=True)
