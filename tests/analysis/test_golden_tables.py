"""Tables of sweeps that go wrong, as text that is kept and read. Oracles: numbers worked out by numpy and scipy beside each.

Change the texts on purpose: UPDATE_GOLDEN=1 python -m pytest tests/analysis/test_golden_tables.py, then read the difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.ablation import ablation_table, undecided
from analysis.formats import render
from analysis.frame import load_sweep
from analysis.sequential import e_value
from analysis.stats import Comparison
from analysis.table import Table
from experiments.plan.factors import switched
from experiments.store import schema
from tests.support.analysis_runs import manifest, readouts, write_manifest, write_run

GOLDEN = Path(__file__).parent / "golden"
DRAW = np.random.default_rng(2)
SHARED = DRAW.normal(0, 0.3, 20)  # what a seed does to all arms alike


def drawn(mean: float, n: int, spread: float = 0.3) -> list[float]:
    """Accuracies of 360 images."""
    return (np.round((mean + SHARED[:n] + DRAW.normal(0, spread, n)) * 3.6) / 3.6).tolist()


def store(root: Path, values: dict[str, dict[int, float | str]], **plan: Any) -> None:
    """`values`: arm -> seed -> percent, or what became of the run."""
    write_manifest(root, manifest({arm: list(by_seed) for arm, by_seed in values.items()}, **{"joined": [], **plan}))
    for arm, by_seed in values.items():
        for seed, value in by_seed.items():
            if isinstance(value, float):
                write_run(root, arm, seed, readouts(value, value - 1, value - 2, value - 8))
            elif value == "diverged":
                write_run(
                    root, arm, seed, state=schema.FAILED, diverged=True, reason="the loss is not finite at step 12"
                )
            elif value == schema.FAILED:
                write_run(root, arm, seed, state=schema.FAILED, reason="OutOfMemoryError: 2 GiB")


def by_seed(values: list[float]) -> dict[int, Any]:
    return dict(enumerate(values))


def diverged_half(root: Path) -> None:
    """The worse half of K=256 diverges: what is left is higher by a point, and that is no finding."""
    own, other = drawn(97.0, 10), drawn(97.2, 10, 0.9)
    worst = set(np.argsort(np.subtract(other, own))[:5].tolist())
    left: dict[int, Any] = {seed: "diverged" if seed in worst else value for seed, value in enumerate(other)}
    shape = [{"kind": "fails", "arm": "K=512", "by": 5}]
    store(
        root,
        {"K=1024": by_seed(own), "K=512": dict.fromkeys(range(10), "diverged"), "K=256": left},
        shape=shape,
        claim="fails at K = 512",
    )


def failed_arm(root: Path) -> None:
    store(
        root,
        {
            "K=1024": by_seed(drawn(97.0, 5)),
            "K=512": by_seed(drawn(95.0, 5)),
            "K=256": dict.fromkeys(range(5), schema.FAILED),
        },
    )


def one_of_six(root: Path) -> None:
    arms = {f"K={2**k}": dict.fromkeys(range(5), schema.MISSING) for k in range(4, 9)}
    store(root, {"K=1024": by_seed(drawn(97.0, 5)), "K=512": by_seed(drawn(96.0, 5, 0.2)), **arms})  # type: ignore[dict-item]


def adaptive(root: Path) -> None:
    """The baseline has 20 seeds, K=512 was told apart at 8: its mean stands beside the baseline's at the same seeds."""
    own = [*(87.0 + np.arange(5) / 3.6 - 1.0).tolist(), *drawn(87.5, 15)]
    far = [value + 4.0 + step / 3.6 for value, step in zip(own, (0, 1, 0, 2, 1, 0, 1, 1), strict=False)]
    near = [value + step / 3.6 for value, step in zip(own, [0, 1, -1, 2, -1] * 4, strict=True)]
    store(root, {"K=1024": by_seed(own), "K=512": by_seed(far), "K=256": by_seed(near)}, max_seeds=20)


def zero_variance(root: Path) -> None:
    """One image more at every seed, out of 360."""
    own = [350 / 3.6, 351 / 3.6, 349 / 3.6, 350 / 3.6, 347 / 3.6]
    store(root, {"K=1024": by_seed(own), "K=512": by_seed([v + 1 / 3.6 for v in own]), "K=256": by_seed(list(own))})


def rounding_zero(root: Path) -> None:
    """2^3 where the factors add up exactly: every interaction is 0 but for the rounding of the accuracies."""
    arms = ("v1", "mlp", "aug", "cos", "mlp+aug", "mlp+cos", "aug+cos", "mlp+aug+cos")
    images = {"mlp": 11, "aug": 4, "cos": 0}
    own = np.round(drawn(80.0, 6, 0.8) * np.array(3.6)).astype(int)
    values = {arm: by_seed([int(k + sum(images.get(f, 0) for f in arm.split("+"))) / 3.6 for k in own]) for arm in arms}
    store(root, values, axis=None, axis_values={}, factors=switched("mlp", "aug", "cos")(arms))


def on_its_way(root: Path) -> None:
    """Seven of ten seeds are there: a difference of two points is shown, and not claimed before the plan is whole."""
    own = drawn(97.0, 10)
    part = {seed: value if seed < 7 else schema.MISSING for seed, value in enumerate(drawn(95.0, 10))}
    rest = [{"seeds": [7, 8, 9], "seen": 7, "time": "2026-11-02T12:00:00.000+00:00"}]
    store(root, {"K=1024": by_seed(own), "K=512": part, "K=256": by_seed(drawn(95.0, 10))})
    joined = root / "joined"
    store(joined, {"K=1024": by_seed(own), "K=512": part, "K=256": by_seed(drawn(95.0, 10))}, joined=rest)


CASES: dict[str, Callable[[Path], None]] = {
    "diverged_half": diverged_half,
    "failed_arm": failed_arm,
    "one_of_six": one_of_six,
    "adaptive": adaptive,
    "zero_variance": zero_variance,
    "rounding_zero": rounding_zero,
    "on_its_way": on_its_way,
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    made = {}
    for name, write in CASES.items():
        root = tmp_path_factory.mktemp(name)
        write(root)
        made[name] = ablation_table(*load_sweep(root, "queue_size"))
        if (root / "joined").is_dir():
            made["joined"] = ablation_table(*load_sweep(root / "joined", "queue_size"))
    return made


@pytest.mark.parametrize("name", [*CASES, "joined"])
def test_the_tables_are_as_kept(tables: dict[str, Table], name: str) -> None:
    kept = GOLDEN / f"{name}.text"
    made = re.sub(r"Seal [0-9a-f]{12}", "Seal ............", render(tables[name], "text", 100))
    if os.environ.get("UPDATE_GOLDEN"):
        kept.write_text(made, encoding="utf-8")
    assert made == kept.read_text(encoding="utf-8")


def arm(table: Table, name: str) -> Comparison:
    (found,) = (row.comparison for row in table.rows if row.arm == name)
    assert found is not None
    return found


def said(table: Table) -> str:
    return " ".join(table.notes)


def test_survivors_are_no_claim_and_divergence_is_a_result(tables: dict[str, Table]) -> None:
    table = tables["diverged_half"]
    left = arm(table, "K=256")
    assert left.low is not None
    assert left.low > 0  # the survivors alone would be "higher"
    assert (left.n, left.dropped, left.verdict) == (5, 5, "no claim")
    low, high = scipy_stats.binomtest(5, 10).proportion_ci(0.95, "exact")
    assert f"K=256 diverged at 5 of 10 seeds [{100 * low:.0f}, {100 * high:.0f} %]" in said(table)
    assert table.claim is not None
    assert table.claim.verdict == "reproduced"
    expected = scipy_stats.fisher_exact([[10, 0], [0, 10]], alternative="greater").pvalue
    assert table.claim.parts[0].p == pytest.approx(expected, rel=1e-12)


def test_a_part_of_a_plan_is_no_claim_and_seeds_that_joined_are_judged_sequentially(tables: dict[str, Table]) -> None:
    whole, part = (arm(tables["on_its_way"], name) for name in ("K=256", "K=512"))
    assert (part.n, part.waiting, part.verdict, whole.verdict) == (7, 3, "no claim", "lower")
    assert "K=512 has seeds to come; the plan is judged when it is whole" in tables["on_its_way"].answer
    joined = arm(tables["joined"], "K=512")
    assert joined.sequential
    assert joined.verdict == "lower"  # a test that holds wherever one stops needs no later seeds
    rows = {row.arm: row for row in tables["joined"].rows}
    values = [rows[name].readouts[schema.LINEAR] for name in ("K=512", "K=1024")]
    assert [summary and summary.n for summary in values] == [7, 10]
    assert "Seeds 7, 8 and 9 joined when results of 7 seeds could be read" in said(tables["joined"])


def test_the_family_is_what_was_planned(tables: dict[str, Table]) -> None:
    for name, arms in (("one_of_six", 6), ("failed_arm", 2)):
        done = arm(tables[name], "K=512")
        assert done.p_t is not None
        assert done.p_t_holm == pytest.approx(arms * done.p_t, rel=1e-12)


def test_the_mean_of_an_arm_fits_its_difference(tables: dict[str, Table]) -> None:
    table = tables["adaptive"]
    row = next(row for row in table.rows if row.arm == "K=512")
    mine, theirs = row.readouts[schema.LINEAR], row.baseline_there
    assert mine is not None
    assert theirs is not None
    assert (mine.n, theirs.n, row.comparison and row.comparison.verdict) == (8, 8, "higher")
    assert mine.mean - theirs.mean == pytest.approx(arm(table, "K=512").difference, abs=1e-12)
    assert undecided(table) == ["K=256"]


def test_seeds_that_agree_have_the_spread_of_one_image_over_the_root_of_twelve(tables: dict[str, Table]) -> None:
    table, image = tables["zero_variance"], 100 / 360
    up, same = arm(table, "K=512"), arm(table, "K=256")
    reach = scipy_stats.t.ppf(0.975, 4) * image / 12**0.5 / 5**0.5
    assert (up.difference, up.low, up.high) == pytest.approx((image, image - reach, image + reach), rel=1e-9)
    assert up.p_t == pytest.approx(2 * scipy_stats.t.sf(image / (image / 12**0.5 / 5**0.5), 4), rel=1e-9)
    assert (same.difference, same.low, same.high) == pytest.approx((0.0, -reach, reach), abs=1e-9)
    assert same.verdict == "not separable"


def test_an_effect_that_is_zero_by_construction_is_zero(tables: dict[str, Table]) -> None:
    effects = {e.name: e.comparison for e in tables["rounding_zero"].crossed[0].effects}
    for name, comparison in effects.items():
        assert comparison is not None
        size = {"mlp": 11 / 3.6, "aug": 4 / 3.6}.get(name, 0.0)
        assert comparison.difference == pytest.approx(size, abs=1e-12)
        assert comparison.verdict == ("higher" if size else "not separable"), name


def test_the_adaptive_p_is_one_over_the_e_value(tables: dict[str, Table]) -> None:
    near = arm(tables["adaptive"], "K=256")
    differences = [step / 3.6 for step in [0, 1, -1, 2, -1] * 4]
    assert near.p_t == pytest.approx(min(1.0, 1 / e_value(differences)), rel=1e-9)
