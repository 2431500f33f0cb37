"""Numbers over seeds, held against scipy's own distribution, the standard library and the definition of a Pareto front."""

from __future__ import annotations

import random
import statistics

import pytest
from scipy import stats

from experiments.store.summary import Summary, paired, pareto_front, summarise, t_interval

VALUES = [3.0, 5.5, 4.0, 7.25]


def test_mean_and_spread_are_those_of_the_standard_library() -> None:
    summary = summarise(VALUES)
    assert summary is not None
    assert summary.std is not None
    assert (summary.n, summary.mean) == (4, statistics.mean(VALUES))
    assert summary.std == pytest.approx(statistics.stdev(VALUES), rel=1e-15)
    assert summary.text() == "4.94 ± 1.85"
    assert summary.text(1) == "4.9 ± 1.9"
    assert summarise([3.0]) == Summary(1, 3.0, None)
    assert Summary(1, 3.0, None).text() == "3.00"
    assert summarise([]) is None
    assert summarise([0.1, 0.1, 0.1]) == Summary(3, pytest.approx(0.1, rel=1e-15), 0.0)


@pytest.mark.parametrize("n", range(2, 40))
def test_the_interval_is_that_of_students_t(n: int) -> None:
    draws = random.Random(n)
    values = [draws.gauss(90.0, 2.0) for _ in range(n)]
    expected = stats.t.interval(0.95, n - 1, statistics.mean(values), statistics.stdev(values) / n**0.5)
    assert t_interval(values) == pytest.approx(expected, rel=1e-12)


def test_one_value_has_no_interval() -> None:
    assert t_interval([3.0]) is None
    assert t_interval([]) is None


def test_differences_are_over_the_seeds_that_both_have() -> None:
    assert paired({0: 5.0, 2: 7.0, 3: 1.0}, {3: 0.5, 1: 9.0, 0: 2.0}) == [3.0, 0.5]
    assert paired({0: 5.0}, {1: 5.0}) == []


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_point_beats(seed: int, objectives: int) -> None:
    draws = random.Random(seed)
    points = [tuple(draws.randint(1, 12) / 4 for _ in range(objectives)) for _ in range(60)]

    def beaten(own: tuple[float, ...]) -> bool:
        return any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in points)

    front = pareto_front(points)
    assert sorted(front) == [i for i, point in enumerate(points) if not beaten(point)]
    assert [points[i] for i in front] == sorted(points[i] for i in front)


def test_the_front_of_nothing_and_of_twins() -> None:
    assert pareto_front([]) == []
    assert pareto_front([(2.0, -5.0), (2.0, -5.0), (3.0, -5.0)]) == [0, 1]
