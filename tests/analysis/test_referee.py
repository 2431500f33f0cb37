"""The simulations of `make referee` judge as the tables do, and the rates that the rule promises hold in a short run of them.

Oracle of the arrays: `ablation_table` itself, on the frame that a store with those runs would give.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from analysis.ablation import ablation_table, undecided
from analysis.frame import cell_types
from analysis.stats import contrast, correct
from experiments.store import schema
from tests.benchmarks import referee
from tests.benchmarks.referee import HABITS, HONEST, Paths, claims, family_wise, floors, shapes, under_rule_1, verdicts
from tests.support.analysis_runs import manifest

Array = np.ndarray


def cells_of(values: Array, states: dict[tuple[int, int], str] | None = None) -> pl.DataFrame:
    """The frame of a store with these accuracies (arm, seed); `states`: of runs that are not done."""
    rows = []
    for (arm, seed), value in np.ndenumerate(values):
        state = (states or {}).get((arm, seed), schema.DONE)
        row = dict.fromkeys(cell_types())
        row |= {"arm": f"K={2**arm}", "seed": seed, "run_id": f"{arm}-{seed}", "reason": "", "state": state}
        row |= {"diverged": state == "diverged", "commits": [], "hardware": [], "problems": []}
        row[schema.LINEAR] = float(value) if state == schema.DONE else None
        row["state"] = schema.FAILED if row["diverged"] else state
        rows.append(row)
    return pl.DataFrame(rows, schema=cell_types(), orient="row")


def claimed(values: Array, states: dict[tuple[int, int], str] | None = None, **plan: object) -> list[bool]:
    """Which arms a table of these runs claims to differ, in their order."""
    arms, seeds = values.shape
    planned = manifest({f"K={2**arm}": list(range(seeds)) for arm in range(arms)}, joined=[], **plan)
    table = ablation_table(planned, cells_of(values, states))
    return [row.comparison is not None and row.comparison.separable for row in table.rows[1:]]


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("sequential", [False, True])
def test_the_arrays_claim_what_a_table_claims(name: str, sequential: bool) -> None:
    """With true differences, so that there are claims; p values to the last digits."""
    draw, found = np.random.default_rng(3), 0
    for n in (5, 8, 12):
        runs = HONEST[name](draw, (6, 5, n))
        runs[:, 1:3] -= np.array([1.5, 3.0])[:, None] if "360" not in name else np.array([4, 7])[:, None] / 3.6
        paths = Paths.of(runs, floors(runs))
        p = paths.sequential_p(paths.all_at(n)) if sequential else paths.t_p(paths.all_at(n))
        plan = {"max_seeds": 20} if sequential else {}
        for sweep, p_A, said in zip(runs, p, claims(p), strict=True):
            assert claimed(sweep, **plan) == said.tolist()
            found += int(said.sum())
            by_seed = {str(i): dict(enumerate(row.tolist())) for i, row in enumerate(sweep)}
            step = referee.grid(sweep.ravel().tolist())
            made = [contrast(by_seed, {str(a): 1.0, "0": -1.0}, sequential=sequential, step=step) for a in range(1, 5)]
            assert [c.p_t for c in made if c] == pytest.approx(p_A.tolist(), rel=1e-8)
            corrected = correct(dict(zip("1234", made, strict=True)))
            assert [c.p_t_holm for c in corrected.values() if c] == pytest.approx(
                referee.holm(p_A[None])[0].tolist(), rel=1e-8
            )
    assert found


def test_a_table_claims_nothing_of_survivors_or_of_a_part_of_its_plan() -> None:
    draw = np.random.default_rng(4)
    runs = referee.normal(0.1)(draw, (1, 3, 10))[0]
    runs[1:] += 5.0
    assert claimed(runs) == [True, True]
    for state in ("diverged", schema.FAILED, schema.CANCELLED, schema.RUNNING, schema.MISSING, schema.LOST):
        assert claimed(runs, {(1, 3): state}) == [False, True], state
        assert claimed(runs, {(0, 3): state}) == [False, False], state
    # A test that holds at whatever number one stops needs no later seeds; survivors remain survivors.
    for state, said in (("diverged", False), (schema.FAILED, False), (schema.RUNNING, True), (schema.MISSING, True)):
        assert claimed(runs, {(1, 3): state}, max_seeds=20) == [said, True], state


def test_arms_of_an_open_part_of_the_claim_stay_undecided_though_they_are_told_apart() -> None:
    draw = np.random.default_rng(8)
    runs = 90 + 0.9 * draw.standard_normal((4, 8))
    runs[1:] += 6.0
    shape = [{"kind": "order", "arms": ["K=2", "K=4"]}]
    planned = manifest({f"K={2**arm}": list(range(8)) for arm in range(4)}, joined=[], max_seeds=20, shape=shape)
    table = ablation_table(planned, cells_of(runs))
    assert all(row.comparison is not None and row.comparison.separable for row in table.rows[1:])
    assert table.claim is not None
    assert [part.verdict for part in table.claim.parts] == ["open"]
    assert undecided(table) == ["K=2", "K=4"]  # K=8 is told apart, and nothing else is asked about it


@pytest.mark.parametrize("done", HABITS)
@pytest.mark.parametrize("name", HONEST)
def test_family_wise_false_claims(name: str, done: str) -> None:
    """2,000 sweeps each; 6 % and three standard errors. The kept table has 20,000 of each and every cell."""
    draw = np.random.default_rng(5)
    for arms, n in ((3, 5), (12, 10)):
        rate = family_wise(HONEST[name], HABITS[done], arms, n, 2000, draw)
        assert rate <= 0.06 + 3 * (0.06 * 0.94 / 2000) ** 0.5, (name, done, arms, n, rate)


def test_what_the_rules_are_there_for() -> None:
    """Without them the same sweeps have false claims in plenty: the simulations can see what they are asked about."""
    draw = np.random.default_rng(6)
    runs = HONEST["normal"](draw, (4000, 4, 40))
    paths = Paths.of(runs, floors(runs))
    looked_at = np.any([claims(paths.t_p(paths.all_at(n))).any(1) for n in range(5, 41)], 0)
    assert looked_at.mean() > 0.15
    halves = np.sort(runs[:, 1, :10] - runs[:, 0, :10], axis=1)[:, 5:]  # the worse half of the pairs diverges
    low = halves.mean(1) / halves.std(1, ddof=1) * 5**0.5
    assert (np.abs(low) > 2.776).mean() > 0.3


def test_wrong_shapes_are_hardly_ever_reproduced_and_the_true_one_is_found_as_often_as_before() -> None:
    draw, shape = np.random.default_rng(7), (referee.expect.rises(), referee.expect.saturates())
    for means in referee.WRONG.values():
        for spread in (0.1, 0.4):
            assert verdicts(shapes(means, spread, 10, 150, draw), shape)["reproduced"] <= 0.05
    for spread, n in ((0.2, 5), (0.4, 10), (0.8, 20)):
        runs = shapes(referee.TRUE, spread, n, 150, draw)
        assert verdicts(runs, shape)["reproduced"] >= under_rule_1(runs)
    for means in referee.REFUTED.values():
        assert verdicts(shapes(means, 0.6, 20, 150, draw), shape)["contradicted"] >= 0.9
