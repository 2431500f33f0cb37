"""What fresh seeds say of a search's trials. Oracles: the closed form for one trial, studies where nothing is better, and
trials whose true advantage is known."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.advantage import advantages, best


def study(
    rng: np.random.Generator, truth: np.ndarray, seeds: int
) -> tuple[dict[str, dict[int, float]], dict[int, float]]:
    """Each trial is its truth above a base whose seeds vary by 1; the paired differences vary by 0.7 more."""
    base = rng.normal(90, 1, seeds)
    trials = {f"trial-{i}": dict(enumerate(base + mean + rng.normal(0, 0.7, seeds))) for i, mean in enumerate(truth)}
    return trials, dict(enumerate(base))


def test_where_no_trial_is_better_the_base_stays_in_nineteen_of_twenty_studies() -> None:
    rng, studies = np.random.default_rng(0), 1500
    for truth in (np.zeros(5), np.array([0.0, 0.0, -0.3, -0.5, -1.0])):
        wrong = sum(best(advantages(*study(rng, truth, 6))) is not None for _ in range(studies))
        print(f"adopted with no better trial: {wrong / studies:.3f}")
        assert wrong / studies <= 0.05
    found = sum(best(advantages(*study(rng, np.array([0.0, 1.5, 0.0]), 10))) == "trial-1" for _ in range(300))
    assert found / 300 > 0.9


def test_the_shrunken_advantage_of_the_best_is_what_further_seeds_give() -> None:
    rng = np.random.default_rng(1)
    raw, shrunken = [], []
    for _ in range(1500):
        truth = rng.normal(0, 0.4, 8)
        found = advantages(*study(rng, truth, 5))
        largest = max(found, key=lambda name: found[name].comparison.difference)  # type: ignore[union-attr]
        one, own = found[largest], truth[int(largest.partition("-")[2])]
        assert one.comparison is not None
        assert one.shrunken is not None
        raw.append(one.comparison.difference - own)
        shrunken.append(one.shrunken - own)
    assert np.mean(raw) > 0.1
    assert abs(np.mean(shrunken)) < 0.03


def test_one_trial_in_closed_form_and_what_seeds_cannot_say() -> None:
    base = {0: 1.0, 1: 2.0, 2: 3.0}
    one = advantages({"a": {0: 2.0, 1: 4.0, 2: 6.0}}, base)["a"]  # differences 1, 2, 3: mean 2, squared error 1 / 3
    assert one.shrunken == pytest.approx(2 * (4 - 1 / 3) / 4)
    assert not one.believed  # three seeds
    assert advantages({"a": {0: 1.1, 1: 1.8, 2: 3.2}}, base)["a"].shrunken == 0.0  # less than its error
    lower = advantages({"a": {s: v - 1 - s / 10 for s, v in base.items()}}, base, higher_is_better=False)["a"]
    assert lower.comparison is not None
    assert lower.comparison.difference == pytest.approx(1.1)
    assert advantages({"a": {0: 5.0}, "b": {}}, base)["a"].shrunken is None
    assert advantages({"b": {}}, base)["b"].comparison is None


def test_seeds_that_were_added_after_results_have_the_p_that_holds_wherever_one_stops() -> None:
    """Looked at with 5, 7, ... 15 seeds, until something is adopted; the t test adopts too often."""
    rng, wrong = np.random.default_rng(4), {True: 0, False: 0}
    for _ in range(400):
        trials, base = study(rng, np.zeros(2), 15)
        for sequential in wrong:
            wrong[sequential] += any(
                best(advantages({t: dict(list(v.items())[:n]) for t, v in trials.items()}, base, sequential=sequential))
                for n in range(5, 16, 2)
            )
    assert wrong[True] / 400 <= 0.05 < wrong[False] / 400


def test_a_trial_without_its_seeds_counts_in_the_correction() -> None:
    rng = np.random.default_rng(2)
    trials, base = study(rng, np.array([1.0, 0.0]), 6)
    alone = advantages({"trial-0": trials["trial-0"]}, base)["trial-0"].p
    assert alone is not None
    assert advantages({**trials, "trial-1": {}}, base)["trial-0"].p == pytest.approx(2 * alone)
