"""The notebooks, run on a small store of real runs that is part of the sources."""

from __future__ import annotations

import ast

import polars as pl
import pytest

from analysis.ablation import ablation_table
from analysis.frame import load_sweep
from analysis.stats import compare
from experiments.store import schema
from tests.support.example_store import NOTEBOOKS, STORE, code_cells, executed

NAMES = ["anatomy.ipynb", "compare.ipynb", "four_way.ipynb"]


@pytest.fixture(autouse=True)
def _store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(STORE))


def test_the_store_is_text_small_and_without_anybodys_paths() -> None:
    files = [file for file in STORE.rglob("*") if file.is_file()]
    texts = [file.read_text(encoding="utf-8") for file in files]
    assert sum(map(len, texts)) < 300_000
    assert not any(word in text for text in texts for word in ("/home/", "/root/", "/tmp/", "/Users/"))
    said = (STORE / "README.md").read_text()
    for manifest in (STORE / schema.SWEEPS_FOLDER).glob("*.json"):
        assert manifest.stem in said


def test_there_are_three_and_they_are_stripped() -> None:
    assert sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")) == NAMES
    for name in NAMES:
        for cell in code_cells(name):
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            tree = ast.parse("".join(cell["source"]))
            assert not [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Lambda)]


def test_comparing_a_sweep_shows_its_table_and_its_pairs() -> None:
    values, shown = executed("compare.ipynb")
    assert values["table"] == ablation_table(*load_sweep(STORE, "queue_size"))
    assert sum(out.startswith("<svg") for out in shown) == 3
    cells = load_sweep(STORE, "queue_size").cells
    by_seed = {
        arm: dict(cells.filter(arm=arm).drop_nulls(schema.LINEAR).select("seed", schema.LINEAR).iter_rows())
        for arm in ("K=128", "K=1024")
    }
    baseline = values["baseline"]
    other = "K=128" if baseline == "K=1024" else "K=1024"
    assert repr(compare(by_seed[other], by_seed[baseline])) in shown[-1]


def test_the_anatomy_of_a_run_ends_in_its_readouts() -> None:
    values, shown = executed("anatomy.ipynb", ARM="K=128", SEED=1)
    cells = load_sweep(STORE, "queue_size").cells.filter(arm="K=128")
    answer = values["answer"].filter(readout=schema.LINEAR)
    assert answer["this run"].to_list() == cells.filter(seed=1)[schema.LINEAR].to_list()
    assert answer["other seeds"][0] == pytest.approx(cells.filter(pl.col("seed") != 1)[schema.LINEAR].mean())
    assert values["config"]["negatives"]["size"] == 128
    assert sum(out.startswith("<svg") for out in shown) == 3
    assert "InfoNCE" in values["last"].filter(key="train/loss")["meaning"][0]


def test_the_four_ways_are_compared_twin_by_twin() -> None:
    values, shown = executed("four_way.ipynb")
    manifest, cells = load_sweep(STORE, "four_way")
    metric = manifest["metric"]
    by_arm = {
        arm: dict(cells.filter(arm=arm).drop_nulls(metric).select("seed", metric).iter_rows())
        for arm in manifest["arms"]
    }
    for backbone in ("resnet", "vit"):
        assert values["gains"][backbone] == compare(by_arm[f"moco_{backbone}"], by_arm[backbone])
    differences = [
        (by_arm["moco_resnet"][s] - by_arm["resnet"][s]) - (by_arm["moco_vit"][s] - by_arm["vit"][s]) for s in (0, 1)
    ]
    assert values["interaction"].difference == pytest.approx(sum(differences) / len(differences))
    assert sum(out.startswith("<svg") for out in shown) == 2
