"""Readouts that were added to finished runs, in the tables. Oracles: means of the numbers written, a file nobody touched."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean

import pytest

from analysis.ablation import ablation_table
from analysis.cli import main
from analysis.columns import CSV_COLUMNS
from analysis.frame import load_sweep
from analysis.verify import verify
from experiments.store import schema
from tests.support.analysis_runs import run_id, unfinished_store

ARMS = ("K=1024", "K=512", schema.RANDOM_INIT)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    unfinished_store(tmp_path / "runs")
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def add(root: Path, *readouts: str) -> dict[str, list[float]]:
    """To the 15 finished runs, as `evaluate` does; returns the values by arm, the same for each readout."""
    values = {arm: [60.0 + 3 * place + seed / 4 for seed in range(5)] for place, arm in enumerate(ARMS)}
    for arm, of_arm in values.items():
        for seed, value in enumerate(of_arm):
            path = root / run_id(arm, seed) / schema.RESULTS
            results = json.loads(path.read_text())
            results["test"] |= dict.fromkeys(readouts, value)
            path.write_text(json.dumps(results))
    return values


def test_a_readout_that_was_added_is_compared_when_it_is_asked_for(store: Path) -> None:
    values = add(store, "retrieval_map", "retrieval_recall1")
    table = ablation_table(*load_sweep(store, "queue_size"), metric="retrieval_map")
    rows = {row.arm: row for row in table.rows}
    for arm in ARMS:
        summary = rows[arm].readouts["retrieval_map"]
        assert summary is not None
        assert (summary.n, summary.mean) == (5, pytest.approx(fmean(values[arm])))
    comparison = rows["K=512"].comparison
    assert comparison is not None
    assert (comparison.n, comparison.difference) == (5, pytest.approx(3.0))
    assert rows["K=256"].readouts["retrieval_map"] is None
    assert table.readouts[0] == "retrieval_map"
    assert "retrieval_recall1" not in table.readouts  # a detail: only where it is compared
    assert (
        ablation_table(*load_sweep(store, "queue_size"), metric="retrieval_recall1").readouts[0] == "retrieval_recall1"
    )


def test_without_any_the_table_is_as_ever_and_with_some_the_csv_has_them_last(store: Path) -> None:
    assert main(["table", "queue_size", "--out", "before.csv"]) == 0
    values = add(store, "few_label_1pct_top1")
    assert main(["table", "queue_size", "--out", "after.csv"]) == 0
    before, after = (list(csv.DictReader(Path(name).read_text().splitlines())) for name in ("before.csv", "after.csv"))
    assert [*before[0]] == [*CSV_COLUMNS, "seal"]
    assert [*after[0]] == [*CSV_COLUMNS, "few_label_1pct_top1_mean", "few_label_1pct_top1_std", "seal"]
    means = {row["arm"]: row["few_label_1pct_top1_mean"] for row in after}
    assert {arm: float(means[arm]) for arm in ARMS} == {arm: pytest.approx(fmean(v)) for arm, v in values.items()}
    assert means["K=128"] == ""
    assert [{k: row[k] for k in CSV_COLUMNS} for row in after] == [{k: row[k] for k in CSV_COLUMNS} for row in before]


@pytest.mark.parametrize("format", ["md", "csv"])
def test_a_table_from_before_still_holds_and_one_from_after_names_a_change(store: Path, format: str) -> None:
    before, after = Path(f"before.{format}"), Path(f"after.{format}")
    assert main(["table", "queue_size", "--out", str(before)]) == 0
    add(store, "retrieval_map")
    assert main(["table", "queue_size", "--readout", "retrieval_map", "--out", str(after)]) == 0
    assert verify(before, store) == []
    assert verify(after, store) == []
    path = store / run_id("K=512", 3) / schema.RESULTS
    results = json.loads(path.read_text())
    results["test"]["retrieval_map"] = 1.5
    path.write_text(json.dumps(results))
    assert verify(before, store) == []
    assert verify(after, store) == ["K=512 seed 3 (K512-3): retrieval_map was 63.75, is 1.5"]
