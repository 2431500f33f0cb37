"""Tables check what they read. Oracles: means of the numbers that can be right, written out; messages in full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from analysis.ablation import ablation_table
from analysis.frame import load_sweep, read_run
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.files import line_of
from moco.config import Evaluation
from moco.evaluation.features import Features, Labelled
from moco.evaluation.protocols import protocol
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


def test_a_line_of_the_journal_that_is_damaged_contradicts_no_result(tmp_path: Path) -> None:
    """One digit of the line changed on the disk: its checksum is not its own any more, though it is still JSON."""
    runs = store(tmp_path)
    record = {"step": 100, "epoch": 10.0, "time": 1793534400.0, "values": {"test/linear_top1": 93.05}}
    (runs[0] / schema.JOURNAL).write_text(line_of(record).replace("93.05", "33.05"))
    problems: list[str] = []
    assert baseline(tmp_path, problems) == (pytest.approx((93.05 + 94.05 + 95.05) / 3), 3)
    assert problems == []
    (runs[0] / schema.JOURNAL).write_text(line_of(record | {"values": {"test/linear_top1": 33.05}}))
    assert baseline(tmp_path, problems) == (pytest.approx((94.05 + 95.05) / 2), 2)
    assert problems == [f"{runs[0] / schema.RESULTS}: linear_top1 is 93.05, the journal has 33.05; not used"]


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


def test_what_a_readout_lacked_is_a_footnote(tmp_path: Path) -> None:
    runs = store(tmp_path)
    for seed, facts in {
        0: {"knn200_neighbours": 120.0, "linear_lr": 0.1},
        1: {"knn200_neighbours": 120.0, "few_label_least": 3.0, "few_label_1pct_raised": 0.0},
        2: {"test_classes": 1.0, "few_label_1pct_raised": 4.0},
    }.items():
        path = runs[seed] / schema.RESULTS
        path.write_text(json.dumps(json.loads(path.read_text()) | {"readout": facts}))
    notes = ablation_table(*load_sweep(tmp_path, "queue_size")).notes
    assert [note for note in notes if " of 6 runs)" in note] == [
        "kNN-200: all 120 training images vote, fewer than 200 (2 of 6 runs).",
        "few-label: the smallest class has 3 labels, fewer than were asked for (1 of 6 runs).",
        "1 % labels: 4 classes have less than one label in that share and give one (1 of 6 runs).",
        "the test images are all of one class, which any answer gets right (1 of 6 runs).",
    ]


def labelled(labels: list[int]) -> Labelled:
    generator = torch.Generator().manual_seed(0)
    return Labelled(torch.randn(len(labels), 8, generator=generator), torch.tensor(labels))


@pytest.mark.parametrize(
    ("train", "test", "facts"),
    [
        ([0, 1] * 150, [0, 1] * 4, {}),
        ([0, 1] * 60, [0, 1] * 4, {"readout/knn200_neighbours": 120.0}),
        ([0] * 300 + [1] * 3, [0, 1] * 4, {"readout/few_label_least": 3.0}),
        ([0] * 300, [0] * 8, {"readout/test_classes": 1.0}),
    ],
)
def test_the_readouts_say_what_they_lack(train: list[int], test: list[int], facts: dict[str, float]) -> None:
    features = Features(labelled(train), labelled(test), labelled(test), ("a", "b"))
    evaluation = Evaluation(few_label_draws=1)
    told = dict([*protocol("knn")(features, evaluation, 0), *protocol("few_label")(features, evaluation, 0)])
    wanted = ("neighbours", "least", "test_classes")
    assert {key: value for key, value in told.items() if key.endswith(wanted)} == facts
