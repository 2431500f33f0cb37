"""Where scipy or statsmodels have the same thing as `analysis`, the numbers are the same to 1e-12."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.outcomes import exact_interval, fisher_p
from analysis.power import power_of, spread_interval
from analysis.stats import compare, holm, one_sided_p, sign_flip_p, t_test_p

SAMPLES = [np.random.default_rng(seed).normal(0.3, 0.7, n) for seed in range(6) for n in (2, 3, 5, 10, 25)]


@pytest.fixture(scope="module")
def statsmodels() -> ModuleType:
    """Without it a user's test run skips and says so, and CI fails."""
    if importlib.util.find_spec("statsmodels") is None:
        message = "statsmodels is not installed: make install"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    for part in ("multitest", "power", "proportion", "weightstats"):
        importlib.import_module(f"statsmodels.stats.{part}")
    return importlib.import_module("statsmodels")


def test_the_paired_comparison_is_statsmodels(statsmodels: ModuleType) -> None:
    for values in SAMPLES:
        made = compare(dict(enumerate(values.tolist())), dict.fromkeys(range(len(values)), 0.0))
        assert made is not None
        theirs = statsmodels.stats.weightstats.DescrStatsW(values)
        assert (made.low, made.high) == pytest.approx(theirs.tconfint_mean(0.05), rel=1e-12, abs=1e-14)
        assert made.p_t == pytest.approx(theirs.ttest_mean(0.0)[1], rel=1e-12)
        assert made.std == pytest.approx(values.std(ddof=1), rel=1e-12)


def test_holm_is_statsmodels(statsmodels: ModuleType) -> None:
    draw = np.random.default_rng(0)
    for size in (1, 2, 5, 12):
        p_values = (draw.random(size) ** 3).tolist()
        theirs = statsmodels.stats.multitest.multipletests(p_values, method="holm")[1]
        assert holm(p_values) == pytest.approx(theirs.tolist(), rel=1e-12)


def test_the_exact_interval_is_statsmodels(statsmodels: ModuleType) -> None:
    for n in (1, 5, 10, 40):
        for k in {0, 1, n // 2, n}:
            theirs = statsmodels.stats.proportion.proportion_confint(k, n, method="beta")
            assert exact_interval(k, n) == pytest.approx(theirs, rel=1e-12, abs=1e-14)


def test_the_power_is_statsmodels(statsmodels: ModuleType) -> None:
    power = statsmodels.stats.power.TTestPower().power
    for size, n in ((0.4, 10), (0.8, 15), (1.5, 6)):
        assert power_of(n, size, 1.0) == pytest.approx(power(size, n, 0.05), rel=1e-9)


def test_the_tests_are_scipys() -> None:
    for values in SAMPLES:
        for side in ("greater", "less"):
            sign = 1.0 if side == "greater" else -1.0
            theirs = scipy_stats.ttest_1samp(values, 0.0, alternative=side).pvalue
            assert one_sided_p((sign * values).tolist()) == pytest.approx(theirs, rel=1e-12)
        assert t_test_p(values.tolist()) == pytest.approx(scipy_stats.ttest_1samp(values, 0.0).pvalue, rel=1e-12)
        if len(values) <= 10:
            flips = scipy_stats.permutation_test(
                [values], np.mean, permutation_type="samples", n_resamples=2 ** len(values)
            )
            assert sign_flip_p(values.tolist()) == pytest.approx(flips.pvalue, rel=1e-12)


def test_fishers_test_is_scipys() -> None:
    for more, of, less, of_other in ((5, 5, 0, 5), (3, 10, 1, 9), (0, 4, 4, 4), (0, 3, 0, 8), (2, 2, 20, 20)):
        table = [[more, of - more], [less, of_other - less]]
        theirs = scipy_stats.fisher_exact(table, alternative="greater").pvalue
        assert fisher_p(more, of, less, of_other) == pytest.approx(theirs, rel=1e-12)


def test_the_interval_of_a_spread_is_of_chi_square() -> None:
    for n in (2, 5, 20):
        theirs = [(n - 1) ** 0.5 / scipy_stats.chi2.ppf(share, n - 1) ** 0.5 for share in (0.975, 0.025)]
        assert spread_interval(1.0, n) == pytest.approx(theirs, rel=1e-12)
