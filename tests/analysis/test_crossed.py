"""Crossed factors in each format. Oracles: cells and effects worked out by numpy, the arms' own names."""

from __future__ import annotations

import csv
import importlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.ablation import ablation_table
from analysis.cli import main
from analysis.formats import FORMATS, render
from analysis.frame import load_sweep
from analysis.stats import holm
from analysis.table import Table
from experiments.plan.factors import check_levels, crossed, switched
from experiments.plan.registry import baseline_config
from experiments.plan.sweep import plan
from experiments.store import schema
from tests.support.analysis_runs import manifest, readouts, write_manifest, write_run

TEMPERATURES, SEEDS = ("0.07", "0.2", "0.5"), 5
ARMS = [f"{head}-T={t}" for head in ("mlp", "linear") for t in ("0.2", "0.07", "0.5")]
DRAW = np.random.default_rng(6)
NUMBERS = {arm: (80 + 2 * i + DRAW.normal(0, 0.2, SEEDS)).tolist() for i, arm in enumerate(ARMS)}


def write(root: Path, numbers: dict[str, list[float]], levels: Any, **more: Any) -> Table:
    write_manifest(
        root, manifest({arm: list(range(SEEDS)) for arm in numbers}, axis=None, axis_values={}, factors=levels, **more)
    )
    for arm, values in numbers.items():
        for seed, value in enumerate(values):
            write_run(root, arm, seed, readouts(value, value - 1, 1, 1))
    return ablation_table(*load_sweep(root, "queue_size"))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return write(tmp_path, NUMBERS, crossed("{head}-T={T}")(ARMS))


def test_levels_are_read_from_the_names_of_the_arms() -> None:
    assert crossed("{head}-T={T}")(["linear-T=0.07"]) == {"linear-T=0.07": {"head": "linear", "T": "0.07"}}
    assert switched("mlp", "aug")(["v1", "mlp+aug"]) == {
        "v1": {"mlp": "off", "aug": "off"},
        "mlp+aug": {"mlp": "on", "aug": "on"},
    }
    with pytest.raises(ValueError, match=r"arm v1: its name is not of the form \{head\}-T=\{T\}"):
        crossed("{head}-T={T}")(["v1"])


@pytest.mark.parametrize("name", ["temperature", "head_and_augmentation"])
def test_in_the_shipped_sweeps_every_field_follows_one_factor(name: str) -> None:
    sweep = importlib.import_module(f"sweeps.{name}").SWEEP
    planned = plan(sweep, baseline_config(sweep.base), base_name=sweep.base)
    assert set(planned.factors) == set(planned.arms) - {schema.RANDOM_INIT}
    swapped = dict(planned.factors)
    one, other = list(swapped)[:2]
    swapped[one], swapped[other] = swapped[other], swapped[one]
    with pytest.raises(ValueError, match="follows none of the factors"):
        check_levels(name, swapped, planned.arms)
    with pytest.raises(ValueError, match="have the same levels of every factor"):
        check_levels(name, {**planned.factors, one: planned.factors[other]}, planned.arms)


def test_simple_effects_and_interactions_are_numpys(table: Table) -> None:
    one = table.crossed[0]
    assert (one.factors, one.levels) == (("T", "head"), {"head": ("mlp", "linear"), "T": TEMPERATURES})
    at = {arm: np.array(values) for arm, values in NUMBERS.items()}
    found = {(e.at, e.kind): e.comparison for e in one.effects}
    simple = {t: at[f"linear-T={t}"] - at[f"mlp-T={t}"] for t in TEMPERATURES}
    change = {t: simple[t] - simple["0.2"] for t in ("0.07", "0.5")}
    family = {(t, "effect"): d for t, d in simple.items()} | {(t, "interaction"): d for t, d in change.items()}
    p_values = holm([scipy_stats.ttest_1samp(d, 0).pvalue for d in family.values()])  # one family
    for (place, differences), p in zip(family.items(), p_values, strict=True):
        c = found[place]
        assert c is not None
        assert c.difference == pytest.approx(differences.mean())
        assert (c.low, c.high) == pytest.approx(
            scipy_stats.t.interval(0.95, 4, differences.mean(), scipy_stats.sem(differences))
        )
        assert c.p_t_holm == pytest.approx(p, rel=1e-9)
    assert ("0.2", "interaction") not in found  # against itself


def words(made: str) -> str:
    """Spelled alike in every format."""
    return " ".join(made.replace(r"$\pm$", "±").replace("&#177;", "±").replace("<br>", " ").split())


@pytest.mark.parametrize("format", sorted({*FORMATS} - {"csv"}))
def test_every_format_has_the_two_way_table_with_its_cells_and_effects(table: Table, format: str) -> None:
    made = words(render(table, format, 200))
    for said in ("linear top-1 over T and head", "change of that against", "linear minus mlp"):
        assert said in made
    values = np.array(NUMBERS["linear-T=0.07"])
    assert f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" in made
    assert render(table, format, 200, view="crossed") != render(table, format, 200)
    assert len(re.findall(r"higher by 6\.\d \[", render(table, format, 200, view="crossed"))) >= 3
    bold = {"md": "| **", "tex": r"\textbf{higher", "html": "<strong>", "text": "never bold"}
    assert bold[format] not in render(table, format, 200, view="crossed")  # a further family is exploratory
    assert "effects are exploratory: Holm over these 5, in each readout anew; no claims" in made


def test_csv_has_a_row_for_each_cell_and_each_effect(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(render(table, "csv", view="crossed"))))
    linear = [row for row in rows if row["readout"] == schema.LINEAR]
    assert sorted(row["kind"] for row in linear) == ["cell"] * 6 + ["effect"] * 3 + ["interaction"] * 2
    cells = {(row["head"], row["T"]): float(row["mean"]) for row in linear if row["kind"] == "cell"}
    assert cells == {tuple(arm.split("-T=")): pytest.approx(np.mean(values)) for arm, values in NUMBERS.items()}
    assert {row["readout"] for row in rows} == {schema.LINEAR, schema.KNN20, schema.KNN200, schema.FEW_LABEL}


def test_a_hole_in_the_grid_has_a_cause(tmp_path: Path) -> None:
    numbers = {arm: values for arm, values in NUMBERS.items() if arm != "linear-T=0.5"}
    write(tmp_path, numbers, crossed("{head}-T={T}")(ARMS))
    planned = manifest({arm: list(range(SEEDS)) for arm in ARMS}, factors=crossed("{head}-T={T}")(ARMS))
    write_manifest(tmp_path, planned)
    write_run(tmp_path, "linear-T=0.5", 0, state=schema.FAILED, diverged=True)
    made = ablation_table(*load_sweep(tmp_path, "queue_size"))
    assert "— (1 diverged, 4 missing)" in render(made, "text", 200, view="crossed")


def test_a_design_of_two_levels_gives_effects_and_interactions(tmp_path: Path) -> None:
    arms = ("v1", "mlp", "aug", "cos", "mlp+aug", "mlp+cos", "aug+cos", "mlp+aug+cos")
    draw = np.random.default_rng(1)
    gain = {"mlp": 3.0, "aug": 1.0, "cos": 0.0}
    numbers = {
        arm: (60 + sum(gain.get(f, 0) for f in arm.split("+")) + draw.normal(0, 0.1, SEEDS)).tolist() for arm in arms
    }
    made = write(tmp_path, numbers, switched("mlp", "aug", "cos")(arms))
    effects = {e.name: e.comparison for e in made.crossed[0].effects}
    assert list(effects) == ["mlp", "aug", "cos", "mlp x aug", "mlp x cos", "aug x cos", "mlp x aug x cos"]
    by_seed = np.mean([numbers[a] for a in arms if "mlp" in a], 0) - np.mean(
        [numbers[a] for a in arms if "mlp" not in a], 0
    )
    mlp = effects["mlp"]
    assert mlp is not None
    assert mlp.difference == pytest.approx(by_seed.mean())
    assert mlp.std == pytest.approx(by_seed.std(ddof=1))
    assert mlp.verdict == "higher"
    shown = render(made, "text", view="crossed")
    assert re.search(r"mlp +effect +higher by 3\.\d \[", shown)
    assert re.search(r"mlp x aug x cos +interaction ", shown)


def test_the_crossed_view_is_a_flag_and_refused_where_nothing_is_crossed(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path))
    assert main(["table", "queue_size", "--view", "crossed", "--format", "md"]) == 0
    assert capsys.readouterr().out == render(table, "md", view="crossed")
    write_manifest(tmp_path, manifest({"K=1": [0]}, label="queue_size@other"))
    assert main(["table", "queue_size@other", "--view", "crossed"]) == 2
    assert "crosses no factors" in capsys.readouterr().err
