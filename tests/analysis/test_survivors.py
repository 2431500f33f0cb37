"""What a sweep has of seeds that ended without a value: never a claim, and in words whose they are.

Oracles: Holm's correction worked out for the arms that are judged, and the states that were written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis import rule_one
from analysis.ablation import ablation_table, lost, undecided
from analysis.cli import main
from analysis.exhibit import exhibit
from analysis.formats import render
from analysis.frame import load_sweep, read_run
from analysis.outcomes import missing
from analysis.power import family_level
from analysis.stats import Comparison, compare, correct
from analysis.table import Table
from analysis.tracked import row_of
from analysis.verify import verify
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


def uncertain(root: Path, arms: tuple[int, ...] = (512,), **plan: Any) -> None:
    """K=512 is told apart at p 0.04 before any correction."""
    write_manifest(root, manifest({f"K={k}": list(range(6)) for k in (1024, *arms)}, **{"joined": [], **plan}))
    for seed in range(6):
        run(root, "K=1024", seed, BASE[seed])
        for k in arms:
            run(root, f"K={k}", seed, BASE[seed] + (UNCERTAIN[seed] if k == 512 else (0.1, -0.2)[seed % 2]))


def past(arm: str, why: str = "dropped by hand") -> dict[str, Any]:
    return {"arm": arm, "why": why, "time": "x", "config": {}, "runs": {str(s): f"{arm}-{s}" for s in range(6)}}


def test_an_arm_that_was_dropped_by_hand_is_still_in_the_family(tmp_path: Path) -> None:
    whole, left = tmp_path / "whole", tmp_path / "left"
    uncertain(whole, (512, 256, 128))
    uncertain(left, past=[past("K=256"), past("K=128"), past("K=64", "its config changed: optim.lr 1 -> 2")])
    before, after = table_of(whole), table_of(left)
    one, two = comparisons(before)["K=512"], comparisons(after)["K=512"]
    assert one.p_t is not None
    assert two.p_t_holm == pytest.approx(3 * one.p_t)
    assert (two.verdict, two.p_t_holm) == (one.verdict, one.p_t_holm)
    assert family_level(after) == family_level(before) == pytest.approx(1 - 0.05 / 3)
    assert exhibit(after).arms == 3
    notes = " ".join(after.notes)
    assert "Holm over the 3 planned arms (K=256 and K=128 among them, though taken out by hand)" in notes
    assert "so of Holm's family: K=64 (its config changed" in notes
    back = tmp_path / "back"  # under another name, with the same runs
    uncertain(back, past=[{**past("K=9"), "runs": {"0": "K512-0"}}])
    assert comparisons(table_of(back))["K=512"].p_t_holm == one.p_t


@pytest.mark.parametrize("extra", [schema.FAILED, schema.CANCELLED])
def test_divergence_of_few_seeds_or_beside_failures_reproduces_nothing(tmp_path: Path, extra: str) -> None:
    shape = [{"kind": "diverges", "arm": "K=512"}, {"kind": "fails", "arm": "K=512", "by": 5.0}]

    def verdict(name: str, seeds: int, failing: int) -> Table:
        root = tmp_path / name
        write_manifest(
            root, manifest({f"K={k}": list(range(seeds + failing)) for k in (1024, 512)}, joined=[], shape=shape)
        )
        for seed in range(seeds + failing):
            if seed < seeds:
                run(root, "K=1024", seed, BASE[seed])
                write_run(root, "K=512", seed, state=schema.FAILED, diverged=True, reason="nan")
            else:
                run(root, "K=1024", seed, BASE[seed])
                write_run(root, "K=512", seed, state=extra, reason="OutOfMemoryError")
        return table_of(root)

    whole, few, beside = verdict("whole", 6, 0), verdict("few", 4, 0), verdict("beside", 6, 1)
    assert [table.claim and table.claim.verdict for table in (whole, few, beside)] == [
        "reproduced",  # Fisher: 1 / C(12, 6)
        "underpowered",
        "underpowered",
    ]
    assert few.claim is not None
    assert "fewer than 5 seeds" in few.claim.parts[0].rests_on
    assert beside.claim is not None
    assert "other seeds of K=512 failed" in beside.claim.parts[0].rests_on
    # More seeds decide a clause on divergence while none failed otherwise; of survivors they decide nothing.
    assert (undecided(few), lost(few)) == (["K=512"], ["K=512"])
    assert (undecided(beside), lost(beside)) == ([], ["K=512"])
    assert (undecided(whole), lost(whole)) == ([], ["K=512"])


def test_seeds_are_not_added_to_an_arm_of_survivors(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({f"K={k}": list(range(8)) for k in (1024, 512)}, joined=[], max_seeds=60))
    for seed in range(8):
        run(tmp_path, "K=1024", seed, BASE[seed])
        if seed == 2:
            write_run(tmp_path, "K=512", seed, state=schema.FAILED, diverged=True, reason="nan")
        else:
            run(tmp_path, "K=512", seed, BASE[seed] + MORE[seed])
    table = table_of(tmp_path)
    assert (undecided(table), lost(table)) == ([], ["K=512"])


def said(root: Path, *command: str, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> str:
    patch.setenv("MOCO_RUNS", str(root))
    assert main(list(command)) == 0
    return capsys.readouterr().out


def test_power_says_every_arm_is_told_apart_only_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = {"kind": "pocock", "at": [5, 10, 15, 20]}
    arms = {f"K={k}": list(range(5)) for k in (1024, 512, 256)}
    write_manifest(tmp_path, manifest(arms, joined=[], max_seeds=20, looks=looks))
    for seed in range(5):
        run(tmp_path, "K=1024", seed, BASE[seed])
        run(tmp_path, "K=512", seed, BASE[seed] + MORE[seed])
        run(tmp_path, "K=256", seed, BASE[seed] + (0.1, -0.2, 0.3, -0.1, 0.05)[seed])
    assert undecided(table_of(tmp_path)) == ["K=256"]
    out = said(tmp_path, "power", "queue_size", capsys=capsys, patch=monkeypatch)
    assert "Every arm is told apart" not in out
    assert out.endswith("at the looks of a plan: K=256\n")


def test_power_has_no_seeds_for_an_arm_whose_seeds_all_diverged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path, manifest({f"K={k}": list(range(5)) for k in (1024, 512)}, joined=[]))
    for seed in range(5):
        run(tmp_path, "K=1024", seed, BASE[seed])
        write_run(tmp_path, "K=512", seed, state=schema.FAILED, diverged=True, reason="nan")
    out = said(tmp_path, "power", "queue_size", capsys=capsys, patch=monkeypatch)
    assert (
        out == "Some of their pairs failed or have no usable value, so that no number of seeds makes a claim: K=512\n"
    )


def test_a_readout_that_was_not_planned_for_is_no_claim_in_any_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path, manifest({f"K={k}": list(range(6)) for k in (1024, 512)}, joined=[]))
    for seed in range(6):
        write_run(tmp_path, "K=1024", seed, readouts(BASE[seed], 90 + seed / 7, 80.0, 70.0))
        write_run(tmp_path, "K=512", seed, readouts(BASE[seed], 90 + seed / 7 + MORE[seed], 80.0, 70.0))
    loaded = load_sweep(tmp_path, "queue_size")
    table = ablation_table(*loaded, schema.KNN20)
    assert comparisons(table)["K=512"].separable  # by the numbers alone
    assert not any(line.claimed for line in exhibit(table).lines)
    assert "mean claimed" not in render(table, "html")
    assert ",suggests higher," in render(table, "csv")
    own = ablation_table(*loaded, schema.LINEAR)
    assert not comparisons(own)["K=512"].separable
    assert undecided(table) == ["K=512"]
    command = ("decide", "queue_size", "--readout", schema.KNN20)
    assert said(tmp_path, *command, capsys=capsys, patch=monkeypatch).startswith("K=512: exploratory, no claim: +1.1 [")
    facts = json.loads(said(tmp_path, *command, "--json", capsys=capsys, patch=monkeypatch))
    assert (facts["arms"]["K=512"]["decided"], facts["undecided"]) == (False, ["K=512"])
    out = said(tmp_path, "power", "queue_size", "--readout", schema.KNN20, capsys=capsys, patch=monkeypatch)
    assert "told apart" not in out
    assert out.startswith("Exploratory, so that nothing is claimed")


def test_a_plan_of_looks_says_that_a_later_look_decides(tmp_path: Path) -> None:
    """A difference that is claimed at the first look and gone at the second."""
    looks, fading = {"kind": "pocock", "at": [5, 10, 15, 20]}, (1.0, 0.7, 1.3, 0.4, 1.6, -1.2, 0.2, -0.9, 0.3, -0.4)
    said = []
    for n in (5, 10):
        root = tmp_path / str(n)
        arms = {f"K={k}": list(range(n)) for k in (1024, 512)}
        write_manifest(root, manifest(arms, joined=[], max_seeds=20, looks=looks))
        for seed in range(n):
            run(root, "K=1024", seed, BASE[seed])
            run(root, "K=512", seed, BASE[seed] + fading[seed])
        table = table_of(root)
        said.append(comparisons(table)["K=512"].verdict)
        assert "what an early look claims, a later one can take back" in table.notes[0]
    assert said == ["higher", "not separable"]


def test_the_seal_says_which_readout_the_plan_is_for(tmp_path: Path) -> None:
    uncertain(tmp_path, past=[past("K=256")])
    table = table_of(tmp_path)
    path = tmp_path / "table.md"
    path.write_text(render(table, "md"))
    assert verify(path, tmp_path) == []
    changed = manifest({f"K={k}": list(range(6)) for k in (1024, 512)}, joined=[], metric=schema.KNN20)
    write_manifest(tmp_path, changed)
    found = verify(path, tmp_path)
    assert "plan: metric was linear_top1, is knn20_top1" in found
    assert "plan: dropped was ['K=256'], is nothing" in found


def test_a_table_of_rule_1_with_equal_differences_still_verifies(tmp_path: Path) -> None:
    """Its spreads had no least value: K=256 is lower by exactly 1 at every seed, K=512 equal at every seed."""
    write_manifest(tmp_path, manifest({f"K={k}": list(range(5)) for k in (1024, 512, 256)}))
    for seed in range(5):
        run(tmp_path, "K=1024", seed, (92.0, 93.5, 92.25, 94.0, 93.0)[seed])
        run(tmp_path, "K=512", seed, (92.0, 93.5, 92.25, 94.0, 93.0)[seed])
        run(tmp_path, "K=256", seed, (91.0, 92.5, 91.25, 93.0, 92.0)[seed])
    planned, cells = load_sweep(tmp_path, "queue_size")
    table = ablation_table(planned, cells)
    rows = {row.arm: row.comparison for row in rule_one.rows(planned, cells, schema.LINEAR, table.rows)}
    one, two = rows["K=512"], rows["K=256"]
    assert one is not None
    assert two is not None
    assert (one.low, one.high, one.p_t, one.std, two.low, two.high, two.p_t, two.std) == (0, 0, 1, 0, -1, -1, 0, 0)
    assert one.verdict == "not separable"
    assert two.verdict == "lower"


def test_a_readout_of_mlflow_is_used_only_if_it_can_be(tmp_path: Path) -> None:
    """By the same rule as those of the run directories: beside the same values on disk."""
    readings = {schema.LINEAR: 120.0, schema.KNN20: float("nan"), schema.KNN200: 88.0}
    cell = manifest({"K=1": [0]})["cells"][0]
    row = row_of(cell, {"moco.state": "done"}, {f"test/{k}": v for k, v in readings.items()}, None, None)
    run_there = read_run(write_run(tmp_path, "K=1", 0, readings))
    assert (row[schema.LINEAR], row[schema.KNN20], row[schema.KNN200]) == (None, None, 88.0)
    assert run_there.readouts == {schema.KNN200: 88.0}
    assert row["problems"] == [
        "K1-0 in MLflow: linear_top1 is 120, not a percentage; not used",
        "K1-0 in MLflow: knn20_top1 is nan, not a finite number; not used",
    ]
    assert [line.partition(": ")[2] for line in run_there.problems] == [
        line.partition(": ")[2] for line in row["problems"]
    ]
