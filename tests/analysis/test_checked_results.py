"""Tables check what they read. Oracles: means of the numbers that can be right, written out; messages in full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.ablation import ablation_table
from analysis.frame import load_sweep, read_run
from experiments.state.state import state_of
from experiments.store import schema
from tests.support.analysis_runs import manifest, write_journal, write_manifest, write_run

SEEDS = (0, 1, 2)


def store(root: Path) -> dict[int, Path]:
    write_manifest(root, manifest({"K=1024": list(SEEDS), "K=512": list(SEEDS)}))
    runs = {}
    for arm, level in (("K=1024", 93.05), ("K=512", 90.0)):
        for seed in SEEDS:
            values = {schema.LINEAR: level + seed, schema.KNN20: 80.0}
            run = write_run(root, arm, seed, values)
            write_journal(run, [(100, 10.0, {f"test/{name}": value for name, value in values.items()})])
            if arm == "K=1024":
                runs[seed] = run
    return runs


def change(run: Path, **test: float) -> None:
    path = run / schema.RESULTS
    results = json.loads(path.read_text())
    results["test"] |= test
    path.write_text(json.dumps(results))


def baseline(root: Path, problems: list[str]) -> tuple[float | None, int]:
    row = ablation_table(*load_sweep(root, "queue_size", problems.append)).rows[0]
    summary = row.readouts[schema.LINEAR]
    return (summary.mean, summary.n) if summary else (None, 0)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (930.5, "linear_top1 is 930.5, not a percentage; not used"),
        (-1.0, "linear_top1 is -1, not a percentage; not used"),
        (93.5, "linear_top1 is 93.5, the journal has 93.05; not used"),
    ],
)
def test_a_readout_that_the_journal_does_not_have_is_missing_and_named(value: float, why: str, tmp_path: Path) -> None:
    runs = store(tmp_path)
    problems: list[str] = []
    assert baseline(tmp_path, problems) == (pytest.approx((93.05 + 94.05 + 95.05) / 3), 3)
    assert problems == []
    change(runs[0], linear_top1=value)
    assert baseline(tmp_path, problems) == (pytest.approx((94.05 + 95.05) / 2), 2)
    assert problems == [f"{runs[0] / schema.RESULTS}: {why}"]
    table = ablation_table(*load_sweep(tmp_path, "queue_size", problems.append))
    assert table.rows[0].n_done == 3  # its other readouts count
    knn = table.rows[0].readouts[schema.KNN20]
    assert knn is not None
    assert knn.n == 3
    assert any("1 damaged file left out" in note for note in table.notes)


def test_the_last_value_of_a_journal_counts_and_a_journal_without_readouts_says_nothing(tmp_path: Path) -> None:
    runs = store(tmp_path)
    write_journal(runs[0], [(100, 10.0, {"test/linear_top1": 1.0}), (100, 10.0, {"test/linear_top1": 93.05})])
    (runs[1] / schema.JOURNAL).unlink()
    write_journal(runs[2], [(100, 10.0, {"train/loss": 1.0})])
    problems: list[str] = []
    assert baseline(tmp_path, problems) == (pytest.approx((93.05 + 94.05 + 95.05) / 3), 3)
    assert problems == []


def test_a_run_whose_results_are_empty_is_not_done(tmp_path: Path) -> None:
    runs = store(tmp_path)
    (runs[0] / schema.RESULTS).write_text("{}")
    assert read_run(runs[0]).state == state_of(runs[0]).state == schema.LOST
    assert read_run(runs[0]).problems == (f"{runs[0] / schema.RESULTS}:1: damaged (without test); not used",)
    problems: list[str] = []
    assert baseline(tmp_path, problems) == (pytest.approx((94.05 + 95.05) / 2), 2)


def test_the_question_is_about_the_readout_that_is_compared(tmp_path: Path) -> None:
    store(tmp_path)
    own = "How does linear top-1 grow with the number of negatives K?"
    for metric, question in (
        (None, own),
        (schema.LINEAR, own),
        (schema.KNN20, "How does kNN-20 grow with the number of negatives K?"),
    ):
        assert ablation_table(*load_sweep(tmp_path, "queue_size"), metric).question == question
    write_manifest(tmp_path, manifest({"K=1024": [0], "K=512": [0]}, question="Does K matter?"))
    table = ablation_table(*load_sweep(tmp_path, "queue_size"), schema.KNN20)
    assert table.question == "Does K matter? By kNN-20."
