from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis import stats
from analysis import words as wording
from analysis.stats import Comparison, compare, correct, holm, sign_flip_floor, sign_flip_p, t_test_p
from experiments.store.summary import Summary, summarise, t_interval


def draws(seed: int, n: int) -> list[float]:
    return [float(v) for v in np.random.default_rng(seed).normal(0.4, 1.0, n)]


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_t_interval_and_test_equal_scipys(n: int) -> None:
    for seed in range(20):
        values = draws(seed, n)
        expected = scipy_stats.t.interval(0.95, n - 1, np.mean(values), scipy_stats.sem(values))
        assert t_interval(values) == pytest.approx(expected, rel=1e-12)
        assert t_test_p(values) == pytest.approx(scipy_stats.ttest_1samp(values, 0.0).pvalue, rel=1e-10)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 11])
def test_sign_flip_p_equals_scipys_exact_permutation_test(n: int) -> None:
    for seed in range(10):
        values = draws(seed, n)
        expected = scipy_stats.permutation_test(
            [np.array(values)], np.mean, permutation_type="samples", n_resamples=2**n, alternative="two-sided"
        )
        assert sign_flip_p(values) == pytest.approx(expected.pvalue, rel=1e-12)


def test_sign_flip_p_counts_ties_as_a_full_enumeration_does() -> None:
    draw = random.Random(3)
    for _ in range(60):
        tenths = [draw.randint(-3, 4) for _ in range(draw.randint(1, 9))]
        reach = abs(sum(tenths))
        patterns = [
            sum(s * v for s, v in zip(signs, tenths, strict=True))
            for signs in itertools.product((1, -1), repeat=len(tenths))
        ]
        expected = sum(abs(p) >= reach for p in patterns) / len(patterns)
        # The same tenths as floats, whose sums are not exact: ties must not be lost to rounding.
        assert sign_flip_p([v / 10 for v in tenths]) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("n", [1, 3, 5, 6, 20, 30])
def test_floor_is_the_p_of_differences_that_all_agree(n: int) -> None:
    assert (
        sign_flip_p([0.1 + 0.01 * i for i in range(n)]) == pytest.approx(2 / 2**n) == pytest.approx(sign_flip_floor(n))
    )


def test_monte_carlo_beyond_the_exact_range_agrees_with_the_exact_share() -> None:
    values = draws(5, stats.EXACT_UP_TO + 2)
    exact = stats._exact_share(values, abs(sum(values)) - 1e-9)
    estimate = sign_flip_p(values)
    assert estimate is not None
    assert (
        abs(estimate - exact) < 5 * (exact * (1 - exact) / stats.MONTE_CARLO_DRAWS) ** 0.5 + 2 / stats.MONTE_CARLO_DRAWS
    )


def rejected_at(alpha: float, p_values: list[float]) -> set[int]:
    """Holm's procedure as published: go up the sorted p values and stop at the first that is too large."""
    rejected: set[int] = set()
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] > alpha / (len(p_values) - rank):
            break
        rejected.add(i)
    return rejected


def test_holm_is_the_smallest_level_at_which_the_procedure_rejects() -> None:
    draw = random.Random(0)
    for _ in range(50):
        p_values = [
            draw.choice([0.001, 0.01, 0.02, 0.0625, 0.25, 0.5, draw.random()]) for _ in range(draw.randint(1, 8))
        ]
        for i, corrected in enumerate(holm(p_values)):
            assert corrected is not None
            if corrected < 1.0:
                assert i in rejected_at(corrected * (1 + 1e-12), p_values)
            assert i not in rejected_at(corrected * (1 - 1e-9), p_values)


def test_thirty_pairs_are_exact_and_quick() -> None:
    """2^30 sign patterns as two halves: the same count as a Monte Carlo estimate from numpy, to its own error."""
    values = np.array(draws(4, 30))
    flips = np.random.default_rng(1).choice([-1, 1], (40_000, 30)) @ values
    estimate = float((np.abs(flips) >= abs(values.sum())).mean())
    exact = sign_flip_p(values.tolist())
    assert exact is not None
    assert abs(exact - estimate) < 5 * (estimate * (1 - estimate) / 40_000) ** 0.5


def test_holm_counts_what_is_still_missing() -> None:
    """As if the missing p were 1: what is claimed now is claimed when the others arrive, whatever they are."""
    with_ones = holm([0.01, 1.0, 0.04])
    assert holm([0.01, None, 0.04]) == [with_ones[0], None, with_ones[2]] == [0.03, None, 0.08]


@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_interval_covers_the_true_difference_as_often_as_it_says(n: int) -> None:
    samples = np.random.default_rng(7).normal(0.3, 0.8, (4000, n)).tolist()
    hits = sum(low <= 0.3 <= high for low, high in filter(None, map(t_interval, samples)))
    assert 0.93 <= hits / 4000 <= 0.97  # 6 standard errors


def test_pairs_are_the_common_seeds() -> None:
    made = compare({0: 90.0, 1: 92.0, 3: 95.0}, {1: 91.0, 2: 50.0, 3: 93.0})
    assert made is not None
    assert made.n == 2
    assert made.difference == pytest.approx(1.5)
    assert compare({0: 90.0}, {1: 91.0}) is None


def test_what_one_seed_cannot_give_is_none() -> None:
    made = compare({0: 90.0}, {0: 89.0})
    assert made == Comparison(1, 1.0, None, None, 1.0, None)
    assert summarise([97.0]) == Summary(1, 97.0, None)
    assert summarise([]) is None
    assert sign_flip_p([]) is None


def differing(by: list[float]) -> Comparison:
    made = compare({i: 90 + d for i, d in enumerate(by)}, dict.fromkeys(range(len(by)), 90.0))
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("by", "words"),
    [
        # mean 1.2, std 0.1581, t_4 = 2.7764: 1.2 -+ 0.1963
        ([1.0, 1.1, 1.2, 1.3, 1.4], "higher by 1.2 [1.0, 1.4], n=5"),
        ([-1.0, -1.1, -1.2, -1.3, -1.4], "lower by 1.2 [1.0, 1.4], n=5"),
        # mean 1.2, std 0.1, t_2 = 4.3027: 1.2 -+ 0.2484
        ([1.1, 1.2, 1.3], "no claim: +1.2 [+1.0, +1.4], n=3"),
        # mean 0.2, std 1.5811: 0.2 -+ 1.9632
        ([-1.8, -0.8, 0.2, 1.2, 2.2], "not separable: +0.2 [MINUS1.8, +2.2], n=5"),
        ([5.0, 5.2], "no claim: +5.1 [+3.8, +6.4], n=2"),
        ([5.0], "no claim: +5.0, n=1"),
        # mean 0.5, std 0.3416, 0.5 -+ 0.4242: the lower bound would print as 0.1
        ([0.1, 0.3, 0.5, 0.6, 1.0], "higher by 0.5 [0.1, 0.9], n=5"),
        # mean 0.4, std 0.3, 0.4 -+ 0.3725: with one decimal the interval would seem to touch 0
        ([0.1, 0.1, 0.4, 0.7, 0.7], "higher by 0.40 [0.03, 0.77], n=5"),
    ],
)
def test_the_rule_for_a_claim_in_words(by: list[float], words: str) -> None:
    assert wording.verdict(differing(by)) == words.replace("MINUS", wording.MINUS)


def test_the_correction_takes_a_weak_claim_away() -> None:
    weak = differing([0.1, 0.1, 0.4, 0.7, 0.7])
    assert weak.verdict == "higher"
    among = correct({"weak": weak, **{f"null {i}": differing([-0.5, 0.5, -0.4, 0.4, 0.1]) for i in range(3)}})
    corrected = among["weak"]
    assert corrected is not None
    assert weak.p_t is not None
    assert corrected.p_t_holm == pytest.approx(4 * weak.p_t)
    assert corrected.verdict == "suggests higher"
