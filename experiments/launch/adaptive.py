"""`--until-significant`: adds seeds to the baseline and to the arms that are not significantly different from it yet.

After each round the analysis tests the arms by p-values that are valid for repeated tests (`analysis.sequential`); the plan
records from the first round on that seeds are added by results. With `--looks` the rounds are fixed beforehand, five seeds
each, and the test is a group-sequential one (`analysis.looks`). Arms of a part of the claim that is open get seeds too. The
same command continues after an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from experiments.launch.grid import paragraph
from experiments.launch.launch_plan import LaunchPlan
from experiments.launch.options import FIRST_DECISION, MAX_SEEDS, LaunchOptions
from experiments.plan.manifest import add_seeds, check_looks, write_manifest
from experiments.plan.sweep import Cell, Plan
from experiments.state.state import state_of
from experiments.store.manifests import read_manifest
from experiments.store.schema import Looks
from experiments.store.states import AT_REST


class Open(NamedTuple):
    """Arms of a sweep that are not told apart from its baseline."""

    undecided: list[str]  # more seeds may tell
    lost: list[str]  # no number of seeds can: a run of theirs, or of the baseline beside it, ended without a value


@dataclass
class Rounds:
    """`planned`: the plan with so many seeds. `start`: carries out a launch plan and returns the exit code.

    `still_open`: the arms of the sweep with that label that are not significantly different from its baseline.
    """

    planned: Callable[[int], Plan]
    start: Callable[[LaunchPlan], int]
    still_open: Callable[[Path, str], Open]
    options: LaunchOptions

    @property
    def root(self) -> Path:
        return self.options.place.root

    @property
    def most(self) -> int:
        return self.options.max_seeds or MAX_SEEDS

    def run(self, seeds: int) -> int:
        """The exit code: 1 if runs of any round failed, as those of an arm that later rounds leave out."""
        looks = self._looks()
        seeds, at_once = min(max(seeds, FIRST_DECISION), self.most), self.options.max_parallel or 1
        if looks is not None:
            seeds = looks["at"][0]
            check_looks(self.root, self.planned(seeds), looks)
        first = self.planned(seeds)
        write_manifest(self.root, first, self.options.command)
        add_seeds(self.root, first, [], self.most, looks)
        code = self._round(first, first.choose(self.options.only))
        worst = code
        while code in (0, 1):
            undecided, lost = self._open(first)
            seeds = max(seeds, self._seeds_of(first, undecided))
            cells = self._cells(undecided, seeds)
            if undecided and seeds < self.most and all(self._is_at_rest(cell) for cell in cells):
                more = looks["at"][0] if looks else max(1, at_once // (len(undecided) + 1))
                seeds = min(self.most, seeds + more)
                cells = self._cells(undecided, seeds)
            if all(self._is_at_rest(cell) for cell in cells):
                _print_outcome(undecided, lost, seeds)
                return worst
            print(f"{seeds} seeds for {', '.join([first.baseline, *undecided])}: not told apart yet", flush=True)
            add_seeds(self.root, self.planned(seeds), cells, self.most)
            code = self._round(self.planned(seeds), cells)
            worst = max(worst, code)
        return code

    def _looks(self) -> Looks | None:
        """The plan of `--looks`, or the one that an earlier command made, which goes on."""
        kind = self.options.looks
        if kind is None:
            known = read_manifest(self.root, self.planned(FIRST_DECISION).label)
            made = known.get("looks") if known else None
            if made is None:
                return None
            self.options = replace(self.options, max_seeds=self.options.max_seeds or made["at"][-1])
            kind = made["kind"]
            print(f"--until-significant: goes on with the looks that were planned, {kind}", flush=True)
        return Looks(kind=kind, at=list(range(FIRST_DECISION, self.most + 1, FIRST_DECISION)))

    def _round(self, plan: Plan, cells: Sequence[Cell]) -> int:
        launch_plan = LaunchPlan.of(plan, self.options, cells)
        if not launch_plan.to_run:
            return 0
        # --retry holds for the first round only; otherwise a run that always fails would be started for ever.
        self.options = replace(self.options, retry=False)
        launch_plan.announce()
        return self.start(launch_plan)

    def _cells(self, undecided: Sequence[str], seeds: int) -> list[Cell]:
        """The runs of these arms and the baseline; none if every arm is decided."""
        plan = self.planned(seeds)
        return plan.choose([plan.baseline, *undecided]) if undecided else []

    def _is_at_rest(self, cell: Cell) -> bool:
        return state_of(self.root / cell.run_id).state in AT_REST

    def _open(self, plan: Plan) -> Open:
        arms = {plan.arm_named(name) for name in self.options.only} if self.options.only else set(plan.arms)
        found = self.still_open(self.root, plan.label)
        return Open(*([arm for arm in some if arm in arms] for some in found))

    def _seeds_of(self, plan: Plan, arms: Sequence[str]) -> int:
        """Seeds that an earlier command has planned for these arms, within the limit of this one."""
        manifest = read_manifest(self.root, plan.label)
        planned = [cell["seed"] + 1 for cell in manifest["cells"] if cell["arm"] in arms] if manifest else []
        return min(max(planned, default=0), self.most)


def _print_outcome(undecided: Sequence[str], lost: Sequence[str], seeds: int) -> None:
    if undecided:
        names = ", ".join(undecided)
        text = f"at {seeds} seeds, the most allowed, not told apart or in an open part of the claim: {names}"
    elif lost:
        text = "of the other arms each is told apart from the baseline, and no part of a claim waits for seeds"
    else:
        text = "every arm is told apart from the baseline, and no part of a claim is open"
    print("\n".join(paragraph(f"--until-significant: {text}")), flush=True)
    if lost:
        names = ", ".join(lost)
        text = f"no number of seeds makes a claim about {names}: pairs of theirs failed or have no usable value"
        print("\n".join(paragraph(f"--until-significant: {text}")), flush=True)
