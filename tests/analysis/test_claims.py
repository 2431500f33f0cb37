"""A claim held against results. Oracles: verdicts worked out by hand, scipy's one-sided tests, simulated sweeps."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.claims import evaluate_claim
from analysis.factors import effects_of
from analysis.table import Claim
from analysis.words import claim_lines
from experiments.plan import expectation as claim_of
from experiments.plan.factors import switched
from tests.support.analysis_runs import manifest

RISING = (claim_of.rises(), claim_of.saturates(within=0.5))
ARMS = ("K=128", "K=256", "K=512", "K=1024")


def sweep(*clauses: Any, arms: tuple[str, ...] = ARMS, seeds: int = 5, **more: Any) -> Any:
    return manifest({arm: list(range(seeds)) for arm in arms}, shape=list(clauses), claim="it does", **more)


def values(
    means: dict[str, float], spread: float, seeds: int, draw: np.random.Generator
) -> dict[str, dict[int, float]]:
    """What a seed shares by its data and initial weights goes to all arms; `spread` is each run's own."""
    common = draw.normal(0, 1.0, seeds)
    return {arm: dict(enumerate(mean + common + draw.normal(0, spread, seeds))) for arm, mean in means.items()}


def exact(means: dict[str, float], seeds: int = 5) -> dict[str, dict[int, float]]:
    """Hardly any spread: what the means say is what must come out."""
    wobble = (0.0, 0.01, -0.01, 0.005, -0.005)
    return {
        arm: {seed: mean + wobble[(seed + i) % 5] for seed in range(seeds)}
        for i, (arm, mean) in enumerate(means.items())
    }


def verdict(claim: Claim | None) -> tuple[str, list[str]]:
    assert claim is not None
    return claim.verdict, [part.verdict for part in claim.parts]


HAND = [
    (RISING, {"K=128": 90, "K=256": 92, "K=512": 93, "K=1024": 93.2}, ("reproduced", ["holds", "holds"])),
    (RISING, {"K=128": 90, "K=256": 92, "K=512": 93, "K=1024": 95}, ("contradicted", ["holds", "does not hold"])),
    (RISING, {"K=128": 94, "K=256": 92, "K=512": 93, "K=1024": 93.2}, ("contradicted", ["does not hold", "holds"])),
    ((claim_of.fails("K=128", by=5),), {"K=128": 80, "K=1024": 90}, ("reproduced", ["holds"])),
    ((claim_of.fails("K=128", by=5),), {"K=128": 87, "K=1024": 90}, ("contradicted", ["does not hold"])),
    ((claim_of.best_between(256, 512),), dict(zip(ARMS, (90, 93, 92, 91), strict=True)), ("reproduced", ["holds"])),
    (
        (claim_of.best_between(256, 512),),
        dict(zip(ARMS, (94, 93, 92, 91), strict=True)),
        ("contradicted", ["does not hold"]),
    ),
    ((claim_of.best_inside(),), dict(zip(ARMS, (90, 93, 92, 91), strict=True)), ("reproduced", ["holds"])),
    ((claim_of.best_inside(),), dict(zip(ARMS, (90, 91, 92, 93), strict=True)), ("contradicted", ["does not hold"])),
    (
        (claim_of.order("K=512", "K=256", "K=128"),),
        dict(zip(ARMS, (90, 91, 92, 0), strict=True)),
        ("reproduced", ["holds"]),
    ),
    (
        (claim_of.order("K=512", "K=256", "K=128"),),
        dict(zip(ARMS, (90, 92, 91, 0), strict=True)),
        ("contradicted", ["does not hold"]),
    ),
]


@pytest.mark.parametrize(("clauses", "means", "expected"), HAND)
def test_what_is_plain_to_see_is_said(clauses: Any, means: dict[str, float], expected: Any) -> None:
    planned = sweep(*clauses, baseline="K=1024", axis_values={arm: float(arm[2:]) for arm in means})
    assert verdict(evaluate_claim(planned, exact(means))) == expected


def test_too_few_seeds_decide_nothing_however_clear_the_means() -> None:
    claim = evaluate_claim(sweep(claim_of.rises(), seeds=4), exact({"K=128": 10, "K=1024": 90}, seeds=4))
    assert verdict(claim) == ("underpowered", ["open"])
    assert claim is not None
    assert claim_lines(claim)[1].endswith("(K=1024 minus K=128: +80.0 [+80.0, +80.0], n=4, fewer than 5).")


def test_its_p_is_that_of_the_one_sided_paired_t_test() -> None:
    made = values(dict.fromkeys(ARMS, 90.0), 0.7, 8, np.random.default_rng(3))
    claim = evaluate_claim(sweep(claim_of.rises(), seeds=8), made)
    assert claim is not None
    top, bottom = list(made["K=1024"].values()), list(made["K=128"].values())
    assert claim.parts[0].p == pytest.approx(scipy_stats.ttest_rel(top, bottom, alternative="greater").pvalue)


def test_the_equivalence_p_is_that_of_two_one_sided_tests() -> None:
    made = values(dict.fromkeys(ARMS, 90.0), 0.2, 8, np.random.default_rng(5))
    claim = evaluate_claim(sweep(claim_of.saturates(within=0.5), seeds=8), made)
    assert claim is not None
    step = np.subtract(list(made["K=1024"].values()), list(made["K=512"].values()))
    expected = max(
        scipy_stats.ttest_1samp(step, -0.5, alternative="greater").pvalue,
        scipy_stats.ttest_1samp(step, 0.5, alternative="less").pvalue,
    )
    assert claim.parts[0].p == pytest.approx(expected)


def crossed_sweep(*clauses: Any, seeds: int = 5) -> Any:
    arms = ("v1", "mlp", "aug", "cos", "mlp+aug", "mlp+cos", "aug+cos", "mlp+aug+cos")
    levels = switched("mlp", "aug", "cos")(arms)
    return sweep(*clauses, arms=arms, seeds=seeds, factors=levels, axis=None, axis_values={})


def test_the_effects_of_crossed_factors_are_those_of_a_least_squares_fit() -> None:
    planned = crossed_sweep()
    draw = np.random.default_rng(0)
    means = {arm: float(draw.normal()) for arm in planned["arms"]}
    on = {f: np.array([f in arm.split("+") for arm in means], float) for f in ("mlp", "aug", "cos")}
    columns = {
        (): np.ones(8),
        ("mlp",): on["mlp"],
        ("aug",): on["aug"],
        ("cos",): on["cos"],
        ("mlp", "aug"): on["mlp"] * on["aug"],
        ("mlp", "cos"): on["mlp"] * on["cos"],
        ("aug", "cos"): on["aug"] * on["cos"],
        ("mlp", "aug", "cos"): on["mlp"] * on["aug"] * on["cos"],
    }
    fitted = np.linalg.lstsq(np.stack(list(columns.values()), 1), np.array(list(means.values())), rcond=None)[0]
    beta = dict(zip(columns, fitted, strict=True))
    found = {names: sum(w * means[arm] for arm, w in weights.items()) for names, weights in effects_of(planned).items()}
    # Averaged over the other factors: half of each interaction counts in an effect.
    assert found["mlp", "aug", "cos"] == pytest.approx(beta["mlp", "aug", "cos"])
    assert found["mlp", "aug"] == pytest.approx(beta["mlp", "aug"] + beta["mlp", "aug", "cos"] / 2)
    assert found[("mlp",)] == pytest.approx(
        beta[("mlp",)] + beta["mlp", "aug"] / 2 + beta["mlp", "cos"] / 2 + beta["mlp", "aug", "cos"] / 4
    )


def test_what_each_factor_adds_is_judged_over_all_combinations() -> None:
    gain = {"mlp": 5.0, "aug": 2.0, "cos": 0.5}
    planned = crossed_sweep(*map(claim_of.adds, gain), claim_of.adds_most("mlp"))
    means = {arm: 60 + sum(gain.get(f, 0.0) for f in arm.split("+")) for arm in planned["arms"]}
    assert verdict(evaluate_claim(planned, exact(means))) == ("reproduced", ["holds"] * 4)
    worse = {arm: mean - (6.0 if "mlp" in arm else 0.0) for arm, mean in means.items()}
    assert evaluate_claim(planned, exact(worse)).verdict == "contradicted"  # type: ignore[union-attr]


NULLS = {
    "rises": ((claim_of.rises(),), {}),
    "order": ((claim_of.order("K=512", "K=256", "K=128"),), {}),
    "inside": ((claim_of.best_inside(),), {}),
    "between": ((claim_of.best_between(256, 512),), {}),
    # A part with a bound has its own null: the bound itself.
    "fails": ((claim_of.fails("K=128", by=2),), {"K=128": 88.0}),
    "saturates": ((claim_of.rises(), claim_of.saturates(within=0.5)), {"K=1024": 90.5}),
}


@pytest.mark.parametrize("name", NULLS)
def test_where_nothing_is_true_hardly_anything_is_said(name: str) -> None:
    """At most 5 % over both verdicts, within 3 standard errors of 1,000 simulated sweeps."""
    clauses, moved, seeds = *NULLS[name], 6
    planned, draw, runs = sweep(*clauses, seeds=seeds, baseline="K=1024"), np.random.default_rng(11), 1000
    means = {**dict.fromkeys(ARMS, 90.0), **moved}
    said = Counter(verdict(evaluate_claim(planned, values(means, 0.6, seeds, draw)))[0] for _ in range(runs))
    wrong = said["reproduced"] + said["contradicted"]
    assert wrong / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5, said


def test_a_strong_effect_is_seen_both_ways() -> None:
    draw = np.random.default_rng(2)
    rising = dict(zip(ARMS, (86.0, 89.0, 90.9, 91.0), strict=True))
    falling = dict(zip(ARMS, (94.0, 93.0, 92.0, 91.0), strict=True))
    planned = sweep(*RISING, seeds=8)
    for means, expected in ((rising, "reproduced"), (falling, "contradicted")):
        said = Counter(verdict(evaluate_claim(planned, values(means, 0.2, 8, draw)))[0] for _ in range(200))
        assert said[expected] >= 180, said


def test_a_clause_that_these_arms_cannot_show_is_open() -> None:
    short = sweep(*RISING, arms=("K=128", "K=256"))
    assert verdict(evaluate_claim(short, exact({"K=128": 90, "K=256": 95}))) == ("underpowered", ["holds", "open"])
    newer = sweep({"kind": "wiggles"})
    assert verdict(evaluate_claim(newer, exact(dict.fromkeys(ARMS, 90.0)))) == ("underpowered", ["open"])
    assert evaluate_claim(manifest({"K=1": [0]}), {}) is None


def test_a_shape_that_a_sweep_cannot_show_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"\Asweep s: shape rises is about an axis, and the sweep has none; name it with axis=\Z"
    ):
        claim_of.check("s", [claim_of.rises()], None, {}, ["a"])
    with pytest.raises(ValueError, match=r"\Asweep s: shape adds names the factor mpl; the factors are mlp\Z"):
        claim_of.check("s", [claim_of.adds("mpl")], None, {"a": {"mlp": "on"}}, ["a"])
    with pytest.raises(ValueError, match=r"\Asweep s: shape fails names the arm m=1; the arms are m=0, m=0.9\Z"):
        claim_of.check("s", [claim_of.fails("m=1", 5)], "x", {}, ["m=0", "m=0.9"])
