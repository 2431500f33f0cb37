"""The arithmetic of a comparison, by closed form with a clock that we wind ourselves, and the words it is told in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from experiments.plan.overrides import change_numbers
from tests.benchmarks.growth import grows, marginal
from tests.benchmarks.machine import cpu_flags
from tests.benchmarks.result import Benchmark, Options, Result, as_json, as_text, compared
from tests.benchmarks.rounds import CPU, WALL, Clock, Contender, Kind, Measured, interleave


class Hands:
    """A clock that moves when a contender works: CPU seconds by `cost`, twice as many on the wall."""

    def __init__(self) -> None:
        self.now, self.order, self.waits = 0.0, "", 0

    def contender(self, name: str, costs: list[float], units: float) -> Contender:
        """The first cost is that of the warm-up."""
        remaining = iter(costs)

        def turn() -> None:
            self.order += name
            self.now += next(remaining)

        return Contender(name, turn, units)

    def clock(self, counts: Kind) -> Clock:
        def wait() -> None:
            self.waits += 1

        return Clock(counts, cpu=lambda: self.now, wall=lambda: 2 * self.now, wait=wait)


def measured(counts: Kind = CPU) -> tuple[Hands, Measured]:
    """a: 100 units in 1, 2, 4 s; b: 50 units in 2, 2, 1 s."""
    hands = Hands()
    both = [hands.contender("a", [9, 1, 2, 4], 100), hands.contender("b", [9, 2, 2, 1], 50)]
    return hands, interleave(both, 3, hands.clock(counts))


def test_the_ratio_is_the_median_of_the_rounds_not_a_ratio_of_medians() -> None:
    """Rates 100, 50, 25 and 25, 25, 50: ratios 4, 2, 0.5. Medians of the rates are 50 and 25."""
    _, result = measured()
    assert result.rates("a") == [100, 50, 25]
    assert result.rates("b") == [25, 25, 50]
    ratio = result.ratio("a", "b")
    assert (ratio.median, ratio.low, ratio.high) == (2, 0.5, 4)
    assert (result.rate("a"), result.rate("b")) == (50, 25)
    assert result.rate("a", WALL) == 25  # twice the seconds


def test_the_order_rotates_after_the_warm_up_and_the_device_is_awaited_at_both_ends_of_a_turn() -> None:
    hands, _ = measured(WALL)
    assert hands.order == "ab" + "ab" + "ba" + "ab"
    assert hands.waits == 2 * 6


def test_three_contenders_each_go_first_once() -> None:
    hands = Hands()
    interleave([hands.contender(name, [1] * 4, 1) for name in "abc"], 3, hands.clock(CPU))
    assert hands.order == "abc" + "abc" + "bca" + "cab"


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--rounds 0: must be at least 1"):
        interleave([], 0, Clock(CPU))


def test_a_result_carries_what_the_table_needs() -> None:
    _, turns = measured()
    result = compared("x", turns, "a", "b", "images", Options(settings={"batch": 3}), wanted=2.5, mode="eager")
    assert (result.ratio, result.ours, result.peer, result.unit) == (2, 50, 25, "images per core-second")
    assert (result.spread, result.wall_ratio, result.rounds, result.against) == ((0.5, 4), 2, 3, "b")
    assert result.settings == {"batch": 3, "threads": 1, "mode": "eager"}
    assert result.reached is False
    assert compared("x", measured(WALL)[1], "a", "b", "images", Options()).unit == "images per second"


def test_lower_is_better_where_it_is_said() -> None:
    bare = Result("memory", 0.6, 6, 10, "MiB", "plain", wanted=0.7, better="lower")
    assert bare.reached is True
    assert Result("memory", 0.6, 6, 10, "MiB", "plain", wanted=0.7).reached is False
    assert Result("memory", 0.6, 6, 10, "MiB", "plain").reached is None


def test_json_is_one_object_with_the_agreed_names() -> None:
    results = [
        Result("a, eager", 2.0, 4.0, 2.0, "u", "plain"),
        Result("a, best", 3.0, 6.0, 2.0, "u", "plain", wanted=9),
    ]
    (line,) = as_json("a", results, {"cpu": "C"}).splitlines()
    told = json.loads(line)
    assert {key: told[key] for key in ("name", "ratio", "ours", "peer", "unit", "machine")} == {
        "name": "a",
        "ratio": 2.0,
        "ours": 4.0,
        "peer": 2.0,
        "unit": "u",
        "machine": {"cpu": "C"},
    }
    assert [(one["name"], one["ratio"], one["reached"]) for one in told["comparisons"]] == [
        ("a, eager", 2.0, None),
        ("a, best", 3.0, False),
    ]


def test_text_has_the_ratio_first_and_fits_80_columns() -> None:
    _, turns = measured()
    result = compared("augment, 224 px", turns, "a", "b", "images", Options(), wanted=2.5, notes=("word " * 40,))
    lines = as_text(result).splitlines()
    assert lines[0] == "2.00x  augment, 224 px against b"
    assert lines[1].strip() == "50 and 25 images per core-second; rounds 0.50x to 4.00x; wall 2.00x"
    assert lines[2].strip() == "wanted at least 2.50x: NO"
    assert max(map(len, lines)) <= 80


def test_a_straight_line_and_a_parabola() -> None:
    """Marginal costs of y = 5 + 2 x are 2 and 2; of y = x^2 at 1, 2, 4, 8 they are 12 and 3."""
    sizes = (1.0, 2.0, 4.0, 8.0)
    assert marginal([(x, 5 + 2 * x) for x in sizes]) == (2, 2)
    straight = grows("t", [(x, 0.1 + 2 * x) for x in sizes], "s", Options())
    assert straight.ratio == pytest.approx(1)
    assert straight.reached is True
    assert [line.count("#") for line in straight.figure] == [6, 12, 24, 48]
    assert max(map(len, as_text(straight).splitlines())) <= 80
    bent = grows("t", [(x, x * x) for x in sizes], "s", Options())
    assert (bent.ratio, bent.ours, bent.peer, bent.reached, bent.unit) == (4, 12, 3, False, "s for one more")


def test_a_cost_that_does_not_grow_is_compared_end_to_end() -> None:
    flat = grows("t", [(1, 1.0), (2, 0.9), (4, 1.1), (8, 1.2)], "s", Options())
    assert (flat.ratio, flat.ours, flat.peer, flat.unit) == (1.2, 1.2, 1.0, "s")


def test_settings_of_the_command_line() -> None:
    benchmark = Benchmark("x", "", lambda options: [], {"batch": 512, "share": 0.5}, least={"share": 0})
    assert change_numbers(benchmark.settings, ["batch=64"], benchmark.least) == {"batch": 64, "share": 0.5}
    assert change_numbers(benchmark.settings, ["share=1"], benchmark.least) == {"batch": 512, "share": 1.0}
    for wrong, words in {
        "bach=1": "--set bach=1: no such setting; did you mean batch?",
        "zzz=1": "--set zzz=1: no such setting; there are batch, share",
        "batch=1.5": "--set batch=1.5: must be a whole number, such as 512",
        "batch": "--set batch: must be a whole number, such as 512",
        "share=-1": "--set share=-1: must be 0 or more",
        "batch=0": "--set batch=0: must be 1 or more",
    }.items():
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            change_numbers(benchmark.settings, [wrong], benchmark.least)


def test_flags_are_those_of_the_kernel(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: X\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16_not\n")
    assert cpu_flags(info) == ["avx2", "avx512f", "avx512_bf16"]
    assert cpu_flags(info.with_name("none")) == []
