"""What a sweep has of seeds that ended without a value: never a claim, and in words whose they are.

Oracles: Holm's correction worked out for the arms that are judged, and the states that were written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.ablation import ablation_table
from analysis.frame import load_sweep
from analysis.outcomes import missing
from analysis.stats import Comparison, compare, correct
from analysis.table import Table
from experiments.store import schema
from tests.support.analysis_runs import manifest, readouts, write_journal, write_manifest, write_run

BASE = (92.2, 92.9, 92.5, 93.1, 92.8, 92.4, 92.6, 92.7, 93.0, 92.3)
MORE = (1.1, 0.9, 1.2, 0.9, 1.3, 1.0, 1.05, 1.15, 0.95, 1.1)
UNCERTAIN = (0.9, -0.05, 0.5, 0.3, 1.2, 0.25)  # p of the paired t test 0.04


def run(root: Path, arm: str, seed: int, value: float) -> Path:
    return write_run(root, arm, seed, readouts(value, 90.0, 88.0, 80.0))


def table_of(root: Path) -> Table:
    return ablation_table(*load_sweep(root, "queue_size", log=lambda line: None))


def comparisons(table: Table) -> dict[str, Comparison]:
    return {row.arm: row.comparison for row in table.rows if row.comparison}


@pytest.mark.parametrize("rest", ["diverged", schema.FAILED, schema.MISSING])
def test_an_arm_that_is_not_judged_takes_no_rank_of_holm_s_correction(tmp_path: Path, rest: str) -> None:
    write_manifest(tmp_path, manifest({f"K={k}": list(range(6)) for k in (1024, 512, 256)}, joined=[]))
    for seed in range(6):
        run(tmp_path, "K=1024", seed, BASE[seed])
        run(tmp_path, "K=512", seed, BASE[seed] + UNCERTAIN[seed])
        if seed < 3:
            run(tmp_path, "K=256", seed, BASE[seed] + (3.0, 3.1, 2.95)[seed])
        elif rest != schema.MISSING:
            write_run(tmp_path, "K=256", seed, state=schema.FAILED, diverged=rest == "diverged", reason="nan")
    found = comparisons(table_of(tmp_path))
    p = found["K=512"].p_t
    assert p is not None
    assert 0.025 < p < 0.05  # alone it would be a claim
    assert found["K=512"].p_t_holm == pytest.approx(2 * p)
    assert found["K=512"].verdict == "suggests higher"
    assert (found["K=256"].p_t_holm, found["K=256"].p_holm) == (None, None)


def test_the_correction_of_an_incomplete_comparison_is_that_of_one_without_results() -> None:
    own = dict(enumerate(BASE))
    whole = compare({s: v + d for (s, v), d in zip(own.items(), MORE, strict=True)}, own)
    part = compare({s: v + 5 for s, v in list(own.items())[:3]}, own, dropped=7)
    with_it, without = correct({"a": whole, "b": part}), correct({"a": whole, "b": None})
    assert with_it["a"] == without["a"]


@pytest.mark.parametrize("plan", [{}, {"max_seeds": 20}, {"joined": [{"seeds": [8, 9], "seen": 8, "time": "x"}]}])
def test_a_done_run_without_a_usable_value_is_lost_like_one_that_failed(tmp_path: Path, plan: dict[str, Any]) -> None:
    write_manifest(tmp_path, manifest({f"K={k}": list(range(10)) for k in (1024, 512)}, **{"joined": [], **plan}))
    for seed in range(10):
        run(tmp_path, "K=1024", seed, BASE[seed])
        path = run(tmp_path, "K=512", seed, float("nan") if seed == 3 else BASE[seed] + MORE[seed])
        if seed == 4:  # its journal has another number: neither is used
            write_journal(path, [(100, 1.0, {"test/linear_top1": 12.0})])
    planned, cells = load_sweep(tmp_path, "queue_size", log=lambda line: None)
    c = comparisons(ablation_table(planned, cells))["K=512"]
    assert (c.n, c.dropped, c.unusable, c.waiting, c.verdict) == (8, 2, 2, 0, "no claim")
    table = ablation_table(planned, cells)
    assert "seeds of K=512 have no usable value, so there is no claim about it" in table.answer
    assert "to come" not in table.answer
    said = [line for lines in cells["problems"].to_list() for line in lines]
    assert len(said) == 2
    assert said[0].endswith("K512-3/results.json: linear_top1 is nan, not a finite number; not used")
    assert "the journal has 12" in said[1]


def test_pairs_without_a_value_are_counted_by_what_became_of_them() -> None:
    outcomes = {
        "a": dict(enumerate([schema.DONE, schema.DONE, schema.FAILED, schema.DONE, schema.RUNNING])),
        "b": dict.fromkeys(range(5), schema.DONE),
    }
    values = {"a": {0: 1.0, 3: 1.0}, "b": dict.fromkeys((0, 1, 2, 4), 1.0)}
    assert missing(outcomes, values, ("a", "b")) == (3, 1, 2)


def test_seeds_that_failed_are_said_to_be_of_the_arm_whose_they_are(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({f"K={k}": list(range(7)) for k in (1024, 512)}, joined=[]))
    for seed in range(7):
        run(tmp_path, "K=512", seed, BASE[seed] + MORE[seed])
        if seed < 6:
            run(tmp_path, "K=1024", seed, BASE[seed])
        else:
            write_run(tmp_path, "K=1024", seed, state=schema.FAILED, reason="OutOfMemoryError")
    answer = table_of(tmp_path).answer
    assert "seeds of K=1024 failed or have no usable value, so there is no claim about K=512" in answer
    assert "seeds of K=512 failed" not in answer
