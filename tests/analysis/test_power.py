"""Seeds that a difference asks for, and stopping when it is clear. Oracles: scipy's noncentral t, simulation, integration."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as scipy_stats

from analysis import power, sequential, words
from analysis.ablation import ablation_table
from analysis.cli import main
from analysis.cost import unfinished_with_hours, with_hours
from analysis.frame import load_sweep
from analysis.power import advise, fixed_t, pairs_needed, power_of, sensitivity, spread_interval, visible
from analysis.report.report import cost
from analysis.sequential import (
    confidence_sequence,
    critical_t,
    e_value,
    one_sided_e_value,
    sequential_p,
    sequential_sign_p,
)
from analysis.stats import compare, correct, holm, one_sided_p, t_test_p
from analysis.table import Advice, Table
from experiments.store import schema
from tests.support.analysis_runs import START, manifest, readouts, unfinished_store, write_manifest, write_run

SEEDS = 40


@pytest.mark.parametrize(("difference", "std", "n"), [(0.4, 0.5, 15), (1.0, 0.5, 5), (0.1, 0.3, 40)])
def test_power_is_that_of_scipys_noncentral_t(difference: float, std: float, n: int) -> None:
    bound, shift = scipy_stats.t.isf(0.025, n - 1), difference * n**0.5 / std
    expected = scipy_stats.nct.sf(bound, n - 1, shift) + scipy_stats.nct.cdf(-bound, n - 1, shift)
    assert power_of(n, difference, std) == pytest.approx(expected, rel=1e-6)


def test_where_scipy_gives_up_the_average_over_the_spread_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [power_of(n, d, 0.5) for n in (5, 9, 30) for d in (0.1, 0.4, 0.9)]
    monkeypatch.setattr(power, "nctdtr", lambda *_: float("nan"))
    assert [power_of(n, d, 0.5) for n in (5, 9, 30) for d in (0.1, 0.4, 0.9)] == pytest.approx(known, abs=1e-3)


def test_the_advised_seeds_have_the_promised_power_in_simulation() -> None:
    needed = pairs_needed(0.4, 0.5)
    assert needed == 15
    draw = np.random.default_rng(1)
    for n, enough in ((needed, True), (needed - 2, False)):
        drawn = draw.normal(0.4, 0.5, (20_000, n))
        seen = (scipy_stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05).mean()
        assert bool(seen > 0.79) is enough, (n, seen)


@pytest.mark.parametrize(("difference", "std"), [(0.2, 0.44), (0.05, 0.5), (0.03, 0.3), (3.0, 0.2)])
def test_the_advised_seeds_are_the_fewest_and_grow_with_the_spread(difference: float, std: float) -> None:
    enough = [n for n in range(5, 1001) if power_of(n, difference, std) >= 0.8]
    assert pairs_needed(difference, std) == enough[0]
    assert enough == list(range(enough[0], 1001))  # no hole: more seeds never have less power
    assert (pairs_needed(difference, 1.5 * std) or 1001) >= enough[0]


def test_a_difference_that_nobody_should_ask_for_has_no_number() -> None:
    assert pairs_needed(0.001, 5.0) is None
    assert pairs_needed(0.0, 0.0) is None
    assert pairs_needed(9.0, 0.1) == 5  # the rule asks for as many


def test_the_interval_of_the_spread_covers_the_true_one_as_often_as_it_says() -> None:
    stds = np.random.default_rng(4).normal(0, 1.0, (4000, 5)).std(axis=1, ddof=1)
    ends = [spread_interval(float(s), 5) for s in stds]
    for tail in (np.mean([low > 1.0 for low, _ in ends]), np.mean([high < 1.0 for _, high in ends])):
        assert abs(tail - 0.025) < 4 * (0.025 * 0.975 / 4000) ** 0.5


@pytest.mark.parametrize(("n", "one", "looked"), [(5, False, False), (12, False, True), (20, True, False)])
def test_the_difference_that_is_visible_has_the_power_that_is_said(n: int, one: bool, looked: bool) -> None:
    level, critical = (0.95 if one else 0.99), critical_t if looked else fixed_t
    size = visible(n, level, 0.8, looked)
    assert size is not None
    assert power_of(n, size, 1.0, level, critical) == pytest.approx(0.8, abs=1e-6)
    assert visible(4, level, 0.8, looked) is None


def test_the_one_sided_e_value_is_the_ratio_of_the_densities_of_t() -> None:
    """Noncentral t averaged over the effect sizes above 0 of N(0, SCALE), against central t."""
    for seed, n, shift in ((0, 5, 0.5), (1, 9, 0.0), (2, 20, -0.2), (3, 12, 1.0)):
        values = np.random.default_rng(seed).normal(shift, 1.0, n)
        t = float(scipy_stats.ttest_1samp(values, 0.0).statistic)

        def weighted(size: float, t: float = t, n: int = n) -> float:
            return float(scipy_stats.nct.pdf(t, n - 1, size * n**0.5) * 2 * scipy_stats.norm.pdf(size))

        above = integrate.quad(weighted, 0, 8, limit=200)[0]
        expected = above / scipy_stats.t.pdf(t, n - 1)
        assert one_sided_e_value(values.tolist()) == pytest.approx(expected, rel=1e-5)
        assert one_sided_p(values.tolist(), sequential=True) == pytest.approx(min(1.0, 1 / expected), rel=1e-5)


def predicted(values: np.ndarray, *, effects: bool) -> float:
    """log density of the second and later values, each given the earlier ones, with the scale-free prior on the spread.

    Student's t with as many degrees of freedom as there are earlier values: about 0 without effects, else about the mean that
    normal effects of variance SCALE times the spread's would have by then (conjugate updates).
    """
    total, prior = 0.0, 1 / sequential.SCALE
    for k in range(1, len(values)):
        seen = values[:k]
        if effects:
            mean = seen.sum() / (k + prior)
            squares = (seen**2).sum() - (k + prior) * mean**2
            scale = (squares / k * (1 + 1 / (k + prior))) ** 0.5
        else:
            mean, scale = 0.0, ((seen**2).sum() / k) ** 0.5
        total += float(scipy_stats.t.logpdf(values[k], k, mean, scale))
    return total


@pytest.mark.parametrize("n", [2, 5, 11, 40])
def test_the_e_value_is_an_independent_e_process_to_the_last_digits(n: int) -> None:
    """The product of its one-step predictions, which is the definition of the martingale. Lai 1976."""
    for seed in range(5):
        values = np.random.default_rng(seed).normal(0.3, 0.8, n)
        # The first value has a scale-free density under both, |x|^-1, so that it does not count.
        product = np.exp(predicted(values, effects=True) - predicted(values, effects=False))
        assert e_value(values.tolist()) == pytest.approx(product, rel=1e-12)


def test_the_always_valid_sign_test_is_an_integral() -> None:
    for more, less in ((5, 0), (8, 0), (6, 2), (1, 4), (0, 0)):
        e = integrate.quad(lambda q, a=more, b=less: 2 * (2 * q) ** a * (2 * (1 - q)) ** b, 0.5, 1.0)[0]
        assert sequential_sign_p(more, less) == pytest.approx(min(1.0, 1 / e), rel=1e-10)


def test_the_e_value_is_the_ratio_of_the_densities_of_t() -> None:
    """Noncentral t averaged over effect sizes from N(0, SCALE), against central t: the Bayes factor it is said to be."""
    for seed, n in ((0, 5), (1, 9), (2, 20)):
        values = np.random.default_rng(seed).normal(0.5, 1.0, n)
        t = float(scipy_stats.ttest_1samp(values, 0.0).statistic)

        def weighted(size: float, t: float = t, n: int = n) -> float:
            return float(
                scipy_stats.nct.pdf(t, n - 1, size * n**0.5) * scipy_stats.norm.pdf(size, 0, sequential.SCALE**0.5)
            )

        above = integrate.quad(weighted, -8, 8, limit=200)[0]
        assert e_value(values.tolist()) == pytest.approx(above / scipy_stats.t.pdf(t, n - 1), rel=1e-5)


@pytest.mark.parametrize("n", [5, 6, 12, 40])
def test_critical_t_is_where_the_p_is_five_per_cent_and_the_interval_ends(n: int) -> None:
    shape = np.linspace(-1, 1, n)
    shape /= shape.std(ddof=1)
    at = (shape + critical_t(n, 0.95) / n**0.5).tolist()
    assert sequential_p(at) == pytest.approx(0.05, rel=1e-9)
    interval = confidence_sequence(at, 0.95)
    assert interval is not None
    assert interval[0] == pytest.approx(0.0, abs=1e-9)
    assert confidence_sequence(at[:4], 0.95) is None


def paths(draw: np.random.Generator, sweeps: int, arms: int) -> np.ndarray:
    """Accuracies (sweep, arm, seed) without any difference; the first arm is the baseline that all are compared with."""
    return np.asarray(draw.normal(0, 1.0, (sweeps, arms, SEEDS)))


def stops_with_a_claim(runs_AS: np.ndarray, claims: Callable[[list[list[float]]], bool]) -> bool:
    """`--until-significant` on one sweep: a seed at a time, for the arms and for the baseline, until something is claimed."""
    differences = [(runs - runs_AS[0]).tolist() for runs in runs_AS[1:]]
    return any(claims([d[:n] for d in differences]) for n in range(5, SEEDS + 1))


def as_tables_do(differences: list[list[float]]) -> bool:
    made = {
        str(a): compare(dict(enumerate(d)), dict.fromkeys(range(len(d)), 0.0), sequential=True)
        for a, d in enumerate(differences)
    }
    return any(c is not None and c.separable for c in correct(made).values())


def as_the_t_test_would(differences: list[list[float]]) -> bool:
    return any(p is not None and p < 0.05 for p in holm([t_test_p(d) for d in differences]))


def test_stopping_when_it_looks_clear_keeps_the_error_of_the_whole_sweep_under_five_per_cent() -> None:
    """Three arms against one baseline, looked at after each seed from 5 to 40, by the code that tables use. The t test does
    not pass the same trial: it would be no use if it did."""
    draw = np.random.default_rng(8)
    drawn = paths(draw, 300, 4)
    wrong = sum(stops_with_a_claim(runs, as_tables_do) for runs in drawn) / 300
    assert wrong <= 0.05, wrong
    naive = sum(stops_with_a_claim(runs, as_the_t_test_would) for runs in drawn) / 300
    assert naive > 0.15, naive


def test_the_error_holds_for_many_paths_and_other_distributions() -> None:
    """The same e-value on arrays, 20,000 paths of up to 200 seeds; the scalar one must agree with it."""
    draw = np.random.default_rng(9)
    n = np.arange(5, 201)
    for name, drawn in {
        "normal": draw.normal(0, 1, (20_000, 200)),
        "uniform": draw.uniform(-1, 1, (20_000, 200)),
        "heavy tails": draw.standard_t(4, (20_000, 200)),
    }.items():
        sums, squares = drawn.cumsum(1)[:, 4:], (drawn**2).cumsum(1)[:, 4:]
        variance = (squares - sums**2 / n) / (n - 1)
        square = sums**2 / n / variance / (n - 1)
        e = (1 + n) ** -0.5 * ((1 + square) / (1 + square / (1 + n))) ** (n / 2)
        assert e[3, 20] == pytest.approx(e_value(drawn[3, :25].tolist()), rel=1e-6)
        ever = float((e >= 20).any(axis=1).mean())
        assert ever <= 0.05, (name, ever)


def test_a_real_difference_stops_early() -> None:
    draw = np.random.default_rng(10)
    needed = []
    for _ in range(100):
        values = draw.normal(2.0, 1.0, SEEDS).tolist()
        needed.append(next(n for n in range(5, SEEDS) if (sequential_p(values[:n]) or 1.0) < 0.05))
    assert np.mean(needed) < 10


def store(root: Path, hardware: str, linear: dict[str, list[float]]) -> None:
    seeds = list(range(max(map(len, linear.values()))))
    write_manifest(root, manifest(dict.fromkeys(linear, seeds)))
    for arm, numbers in linear.items():
        for seed, value in enumerate(numbers):
            write_run(
                root, arm, seed, readouts(value, 1, 1, 1), seconds=7200.0, attempts=[{**START, "hardware": hardware}]
            )


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Differences -0.1, 0.9, 0.4, 0.0, 0.8: mean 0.4, sd 0.4528."""
    store(tmp_path, "NVIDIA H100 80GB HBM3", {"K=65536": [60.0] * 5, "K=4096": [59.9, 60.9, 60.4, 60.0, 60.8]})
    return ablation_table(*load_sweep(tmp_path, "queue_size"))


def test_advice_counts_the_runs_of_arm_and_baseline_and_their_hours(table: Table) -> None:
    (advice,) = advise(table, effect=0.4)
    std = float(np.std([-0.1, 0.9, 0.4, 0.0, 0.8], ddof=1))
    needed = pairs_needed(0.4, std, critical=critical_t)  # they join seeds that have results
    assert needed is not None
    low, high = (std * (4 / scipy_stats.chi2.ppf(share, 4)) ** 0.5 for share in (0.975, 0.025))
    assert advice.at_least == pairs_needed(0.4, low, critical=critical_t)
    assert advice.at_most == pairs_needed(0.4, high, critical=critical_t)
    assert (advice.needed, advice.more_runs, advice.unit) == (needed, 2 * (needed - 5), "GPU-h")
    assert advice.more_hours == pytest.approx(2 * (needed - 5) * 2.0)
    line = words.advice_line(advice)
    assert line.startswith(
        f"To see 0.4 points between K=4096 and K=65536 (sd 0.45, n=5) you need ~{needed} paired seeds ("
    )
    assert line.endswith(f"+{4 * (needed - 5)} GPU-h, added by --until-significant")
    assert any(note.startswith("To see 1 point between K=4096 and K=65536") for note in table.notes)


def test_advice_does_not_depend_on_the_difference_that_was_seen(table: Table) -> None:
    """Power for the difference that was seen promises 80 % and reaches 61 %."""
    (row,) = (row for row in table.rows if row.comparison and row.role == "arm")
    assert row.comparison is not None
    other = replace(row, comparison=replace(row.comparison, difference=0.1))
    twin = replace(table, rows=(table.rows[0], other))
    assert replace(advise(twin)[0], difference=0.0) == replace(advise(table)[0], difference=0.0)


def test_a_table_says_what_it_could_have_seen(table: Table) -> None:
    std = float(np.std([-0.1, 0.9, 0.4, 0.0, 0.8], ddof=1))
    least = next(d / 1000 for d in range(1, 5000) if power_of(5, d / 1000, std) >= 0.8)
    (line,) = sensitivity(table)
    assert line == f"A true difference that such seeds show in 80 % of sweeps, in points: K=4096 {least:.1f}."
    assert line in table.notes


def test_advice_for_several_arms_asks_for_what_holm_would(tmp_path: Path) -> None:
    wobble = [-0.1, 0.9, 0.4, 0.0, 0.8]
    store(tmp_path, "CPU", {"K=1": [60.0] * 5, **{f"K={k}": [60 + w for w in wobble] for k in (2, 3)}})
    advice = advise(ablation_table(*load_sweep(tmp_path, "queue_size")), effect=0.5)
    assert [a.level for a in advice] == [0.975, 0.975]
    assert advice[0].needed == pairs_needed(0.5, advice[0].std, 0.975, critical=critical_t)
    assert advice[0].unit == "CPU-h"


def test_power_is_a_command(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path))
    assert main(["power", "queue_size"]) == 0
    assert capsys.readouterr().out == words.advice_line(advise(table)[0]) + "\n"
    assert main(["power", "queue_size", "--json", "--power", "0.9"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["advice"] == [advise(table, 0.9)[0].as_data()]
    assert main(["power", "queue_size", "--json", "--effect", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["advice"] == [advise(table, effect=0.5)[0].as_data()]
    assert main(["power", "queue_size", "--effect", "0"]) == 2
    assert capsys.readouterr().err == "error: --effect 0: must be above 0 and at most 100 points, such as 1\n"
    assert main(["power", "queue_size", "--power", "1.5"]) == 2
    assert capsys.readouterr().err == "error: --power 1.5: must be between 0 and 1, such as 0.8\n"


def test_arms_without_a_pair_are_named_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished_store(tmp_path)
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path))
    assert main(["power", "queue_size"]) == 0
    assert capsys.readouterr().out == (
        "Too few paired seeds to reckon with: K=128; two are the least\n"
        "Some of their pairs failed or have no usable value, so that no number of seeds makes a claim: K=256\n"
    )


def test_hours_are_those_of_finished_runs(table: Table, tmp_path: Path) -> None:
    assert with_hours(load_sweep(tmp_path, "queue_size").cells)["hours"].to_list() == [2.0] * 10


def attempts(ranks: int | None, *ends: tuple[str, float | None]) -> list[dict[str, object]]:
    """A start and an end for each; `ranks` as a store of today says it, None as an older one does."""
    lines: list[dict[str, object]] = []
    for state, seconds in ends:
        lines += [START | ({"ranks": ranks} if ranks else {}), {"event": "end", "state": state}]
        lines[-1] |= {"seconds": seconds} if seconds is not None else {}
    return lines


def test_every_attempt_costs_its_time_on_each_device_whatever_came_of_it(tmp_path: Path) -> None:
    """In closed form. A node's four devices count four times, a failed attempt as much as one that went well."""
    write_manifest(tmp_path, manifest({"K=64": list(range(6))}))
    done, failed = schema.DONE, schema.FAILED
    write_run(tmp_path, "K=64", 0, readouts(90, 1, 2, 3), 300, attempts(4, (failed, 100), (done, 200)))
    write_run(tmp_path, "K=64", 1, readouts(91, 1, 2, 3), 360, attempts(None, (done, 360)))
    write_run(tmp_path, "K=64", 2, readouts(92, 1, 2, 3), 720, [START])  # its attempts are not known
    write_run(tmp_path, "K=64", 3, None, 0, attempts(8, (failed, 45)), state=failed)
    write_run(
        tmp_path, "K=64", 4, None, 0, attempts(2, (schema.LOST, None), (schema.CANCELLED, 90)), state=schema.CANCELLED
    )
    cells = load_sweep(tmp_path, "queue_size").cells
    assert cells["device_seconds"].to_list() == [4 * 300, 360, None, 8 * 45, 2 * 90, None]
    assert with_hours(cells)["hours"].to_list() == [1200 / 3600, 0.1, 0.2, None, None, None]
    assert unfinished_with_hours(cells)["hours"].to_list() == [0.1, 0.05]
    assert cost(cells) == "0.63 CPU-h in 3 finished runs (13 min each), 0.15 CPU-h in 2 unfinished runs"


def test_a_sweep_whose_seeds_were_added_by_what_they_showed_is_judged_by_the_honest_p(tmp_path: Path) -> None:
    """t = 4.5 at n = 5: enough for a paired t test, not for one that was looked at on the way."""
    rows = {"K=1": [60.0] * 5, "K=2": [61.0, 60.4, 60.9, 60.5, 61.2]}
    store(tmp_path, "CPU", rows)
    loaded = load_sweep(tmp_path, "queue_size")
    differences = [b - a for a, b in zip(*rows.values(), strict=True)]
    fixed, looked = (
        ablation_table(m, loaded.cells)
        for m in (loaded.manifest, {**loaded.manifest, "max_seeds": 9})  # type: ignore[arg-type]
    )
    one, other = fixed.rows[1].comparison, looked.rows[1].comparison
    assert one is not None
    assert other is not None
    assert (one.verdict, other.verdict) == ("higher", "not separable")
    assert other.p_t == sequential_p(differences)
    assert (other.low, other.high) == confidence_sequence(differences, 0.95)
    assert other.p is None
    assert "whatever number of seeds one stops" in looked.notes[0]
    advice = advise(looked)[0]
    assert advice.needed == pairs_needed(1.0, advice.std, critical=critical_t)


def test_a_sentence_without_a_number_of_seeds() -> None:
    advice = Advice("a", "b", 0.5, 0.01, 3.0, 5, 0.95, 15, 7, None, 20, 38.2, "GPU-h")
    assert words.advice_line(advice) == (
        "To see 0.5 points between a and b (sd 3, n=5) you need ~15 paired seeds "
        "(7 to over 1,000 by the spread's own 95 % interval): 20 more runs, +38 GPU-h, added by --until-significant"
    )
    enough = words.advice_line(replace(advice, more_runs=0, at_most=9))
    assert enough.endswith("~15 paired seeds are enough (7 to 9 by the spread's own 95 % interval): as many are there")
    assert words.advice_line(replace(advice, needed=None)).endswith("more than 1,000 paired seeds would be needed")
