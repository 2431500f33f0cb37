"""A claim held against results. Oracles: verdicts worked out by hand, scipy's one-sided tests, simulated sweeps."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.claims import evaluate_claim
from analysis.factors import effects_of
from analysis.table import DIVERGED, Claim
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
    (RISING, {"K=128": 94, "K=256": 92, "K=512": 93, "K=1024": 93.2}, ("contradicted", ["does not hold"] * 2)),
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


def above(differences: np.ndarray) -> float:
    return float(scipy_stats.ttest_1samp(differences, 0.0, alternative="greater").pvalue)


def test_its_p_is_the_largest_of_the_one_sided_paired_t_tests() -> None:
    """Of the ends, and of every later arm minus every earlier one plus a quarter of the rise."""
    made = values(dict.fromkeys(ARMS, 90.0), 0.7, 8, np.random.default_rng(3))
    claim = evaluate_claim(sweep(claim_of.rises(), seeds=8), made)
    assert claim is not None
    at = [np.array(list(made[arm].values())) for arm in ARMS]
    rise = at[3] - at[0]
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4) if (i, j) != (0, 3)]
    expected = max(above(rise), *(above(at[j] - at[i] + 0.25 * rise) for i, j in pairs))
    assert claim.parts[0].p == pytest.approx(expected, rel=1e-10)


def test_the_equivalence_p_is_that_of_two_one_sided_tests() -> None:
    made = values(dict(zip(ARMS, (88.0, 89.0, 90.0, 90.0), strict=True)), 0.2, 8, np.random.default_rng(5))
    at = [np.array(list(made[arm].values())) for arm in ARMS]
    step, rise = at[3] - at[2], at[3] - at[0]
    for clause, bounds in (
        (claim_of.saturates(), (above(0.25 * rise + step), above(0.25 * rise - step))),
        (claim_of.saturates(share=0.1), (above(0.1 * rise + step), above(0.1 * rise - step))),
        (
            claim_of.saturates(within=0.3),
            (above(0.25 * rise + step), above(0.25 * rise - step), above(step + 0.3), above(0.3 - step)),
        ),
    ):
        claim = evaluate_claim(sweep(clause, seeds=8), made)
        assert claim is not None
        assert claim.parts[0].p == pytest.approx(max(bounds), rel=1e-10)


def test_an_effect_that_is_excluded_contradicts_and_is_not_underpowered_for_ever() -> None:
    """0.0 [0.0, 0.0] at 60 seeds; `smallest` says what counts as an effect, a point where a clause does not say."""
    flat = exact(dict.fromkeys(ARMS, 90.0), seeds=60)
    for clause in (claim_of.rises(), claim_of.order(*ARMS), claim_of.best_inside(), claim_of.best_between(256, 512)):
        assert verdict(evaluate_claim(sweep(clause, seeds=60), flat)) == ("contradicted", ["does not hold"]), clause
    small = exact(dict(zip(ARMS, (90.0, 90.2, 90.4, 90.6), strict=True)), seeds=60)
    assert verdict(evaluate_claim(sweep(claim_of.rises(), seeds=60), small))[0] == "reproduced"
    falls = exact(dict(zip(ARMS, (90.6, 90.4, 90.2, 90.0), strict=True)), seeds=60)
    assert verdict(evaluate_claim(sweep(claim_of.rises(smallest=0.1), seeds=60), falls))[0] == "contradicted"


def outcomes_with(diverged: dict[str, int], seeds: int = 5, **other: dict[int, str]) -> dict[str, dict[int, str]]:
    """`diverged`: arm -> its first so many seeds."""
    made = {arm: {s: DIVERGED if s < diverged.get(arm, 0) else "done" for s in range(seeds)} for arm in ARMS}
    for arm, states in other.items():
        made[arm.replace("K", "K=")] |= states
    return made


def surviving(values: Any, outcomes: dict[str, dict[int, str]]) -> Any:
    return {a: {s: v for s, v in by.items() if outcomes[a][s] == "done"} for a, by in values.items()}


def test_an_arm_that_diverges_more_often_is_the_lower_one() -> None:
    """5 of 5 against 0 of 5: Fisher's exact p, 1 / C(10, 5), by scipy. Survivors alone decide nothing."""
    planned = sweep(claim_of.fails("K=128", by=5), claim_of.diverges("K=128"), baseline="K=1024")
    means = dict.fromkeys(ARMS, 90.0)
    all_gone = outcomes_with({"K=128": 5})
    claim = evaluate_claim(planned, surviving(exact(means), all_gone), all_gone)
    assert verdict(claim) == ("reproduced", ["holds", "holds"])
    assert claim is not None
    expected = scipy_stats.fisher_exact([[5, 0], [0, 5]], alternative="greater").pvalue
    assert [part.p for part in claim.parts] == pytest.approx([expected] * 2, rel=1e-12)
    assert "K=128 diverged at 5 of 5 seeds, K=1024 at 0 of 5" in claim_lines(claim)[1]
    some = outcomes_with({"K=128": 2}, seeds=10)
    good = exact({**means, "K=128": 70.0}, seeds=10)  # 20 points lower, at the eight seeds that are left
    assert verdict(evaluate_claim(planned, surviving(good, some), some)) == ("underpowered", ["open", "open"])
    waits = outcomes_with({"K=128": 4}, K128={4: "running"})
    assert verdict(evaluate_claim(planned, surviving(exact(means), waits), waits)) == ("underpowered", ["open"] * 2)


def test_a_clause_rests_on_no_survivors_and_on_no_part_of_a_plan() -> None:
    rising = exact(dict(zip(ARMS, (90.0, 92.0, 93.0, 93.2), strict=True)), seeds=10)
    for state in ("failed", "cancelled", "running", "missing", "lost"):
        outcomes = outcomes_with({}, seeds=10, K256={3: state})
        claim = evaluate_claim(sweep(claim_of.rises(), seeds=10), surviving(rising, outcomes), outcomes)
        assert verdict(claim) == ("underpowered", ["open"]), state
    assert verdict(evaluate_claim(sweep(claim_of.rises(), seeds=10), rising)) == ("reproduced", ["holds"])


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
    "just an effect": ((claim_of.order("K=512", "K=128"),), {"K=512": 91.0}),
    # A part with a bound has its own null: the bound itself.
    "fails": ((claim_of.fails("K=128", by=2),), {"K=128": 88.0}),
    "saturates": ((claim_of.saturates(within=0.5),), {"K=128": 88.0, "K=1024": 90.5}),
}


@pytest.mark.parametrize("name", NULLS)
def test_where_nothing_is_true_hardly_anything_is_said(name: str) -> None:
    """At most 2.5 % are wrong, within 3 standard errors of 1,000 simulated sweeps. That an effect is under the smallest of
    interest is right to say where all arms are equal, and wrong where it is just as large."""
    clauses, moved, seeds = *NULLS[name], 6
    planned, draw, runs = sweep(*clauses, seeds=seeds, baseline="K=1024"), np.random.default_rng(11), 1000
    means = {**dict.fromkeys(ARMS, 90.0), **moved}
    said = Counter(verdict(evaluate_claim(planned, values(means, 0.6, seeds, draw)))[0] for _ in range(runs))
    wrong = said["contradicted"] if name == "just an effect" else said["reproduced"]
    if name in ("fails", "saturates"):
        wrong += said["contradicted"]
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
