from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.ablation import ablation_table
from analysis.columns import CSV_COLUMNS
from analysis.formats import FORMATS, render, text
from analysis.frame import load_sweep
from analysis.table import Table
from experiments.store import schema
from experiments.store.summary import Summary
from tests.support.analysis_runs import (
    BASELINE_LINEAR,
    OTHER_LINEAR,
    manifest,
    readouts,
    unfinished_store,
    write_manifest,
    write_run,
)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    unfinished_store(tmp_path)
    return ablation_table(*load_sweep(tmp_path, "queue_size"))


@pytest.mark.parametrize("format", FORMATS)
def test_formats_are_as_kept(table: Table, format: str) -> None:
    """Change them on purpose: UPDATE_GOLDEN=1 python -m pytest tests/analysis/test_tables.py, then read the difference."""
    kept = GOLDEN / f"unfinished.{format}"
    made = re.sub(
        r"(moco-seal 2 \w+ \w+) [\w+/=]+", r"\1 PACKED", render(table, format)
    )  # zlib's versions pack differently
    if os.environ.get("UPDATE_GOLDEN"):
        kept.write_text(made, encoding="utf-8")
    assert made == kept.read_text(encoding="utf-8")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_says_what_is_unfinished(tmp_path: Path, format: str) -> None:
    unfinished_store(tmp_path)
    write_run(tmp_path, "K=128", 0, state=schema.PRUNED, reason="below the median of the study at step 40", step=40)
    made = ablation_table(*load_sweep(tmp_path, "queue_size"))
    said = " ".join(re.sub(r"&#\d+;|\\", "", render(made, format)).split())
    for counted in ("1 failed, 1 running, 1 diverged, 1 missing", "1 pruned, 4 missing"):
        assert counted in said
    for told in (
        "seed 1 failed (OutOfMemoryError",
        "seed 2 running",
        "seed 3 diverged (the loss is not finite at step 12)",
        "seed 4 missing",
        "seed 0 pruned (below the median of the study at step 40)",
        "seeds 1, 2, 3 and 4 missing",
        "So far (16 of 25 runs)",
    ):
        assert told in said or format == "csv"


def read_back(made: str) -> dict[str, dict[str, float | None]]:
    rows = csv.DictReader(io.StringIO(made))
    assert rows.fieldnames == [*CSV_COLUMNS, "seal"]
    words = ("not_done", "verdict", "published_source", "seal")
    return {row.pop("arm"): {k: float(v) if v else None for k, v in row.items() if k not in words} for row in rows}


def test_csv_columns_are_the_frozen_ones() -> None:
    assert ",".join(CSV_COLUMNS) == (
        "arm,n_done,n_planned,linear_top1_mean,linear_top1_std,knn20_top1_mean,knn20_top1_std,knn200_top1_mean,"
        "knn200_top1_std,few_label_top1_mean,few_label_top1_std,finetune_top1_mean,finetune_top1_std,"
        "difference,difference_low,difference_high,p,p_holm,seconds_mean,"
        "not_done,n_paired,p_t,p_t_holm,verdict,published,published_source"
    )


def test_csv_holds_the_numbers_that_numpy_and_scipy_give(table: Table) -> None:
    rows = read_back(render(table, "csv"))
    assert list(rows) == ["K=1024", "K=512", "K=256", "K=128", schema.RANDOM_INIT]
    differences = np.subtract(OTHER_LINEAR, BASELINE_LINEAR)
    interval = scipy_stats.t.interval(0.95, 4, differences.mean(), scipy_stats.sem(differences))
    expected = {
        "n_done": 5,
        "n_planned": 5,
        "linear_top1_mean": np.mean(OTHER_LINEAR),
        "linear_top1_std": np.std(OTHER_LINEAR, ddof=1),
        "knn20_top1_mean": 96.2,
        "knn20_top1_std": np.std([0, 0.1, 0.2, 0.3, 0.4], ddof=1),
        "knn200_top1_mean": 93.0,
        "knn200_top1_std": 0.0,
        "few_label_top1_mean": 86.0,
        "few_label_top1_std": 0.0,
        "difference": differences.mean(),
        "difference_low": interval[0],
        "difference_high": interval[1],
        "finetune_top1_mean": None,
        "finetune_top1_std": None,
        "p": 2 / 2**5,
        "p_holm": 3 * 2 / 2**5,  # over the three planned arms, of which two have no p yet
        "seconds_mean": 60.0,
        "n_paired": 5,
        "published": 56.4,
        "p_t": scipy_stats.ttest_rel(OTHER_LINEAR, BASELINE_LINEAR).pvalue,
        "p_t_holm": 3 * scipy_stats.ttest_rel(OTHER_LINEAR, BASELINE_LINEAR).pvalue,
    }
    assert rows["K=512"] == pytest.approx(expected)
    assert rows["K=1024"]["seconds_mean"] == pytest.approx(62.0)


def test_missing_is_empty_and_never_zero(table: Table) -> None:
    rows = read_back(render(table, "csv"))
    assert {k: v for k, v in rows["K=128"].items() if v is not None} == {"n_done": 0, "n_planned": 5}
    one = rows["K=256"]
    assert (one["n_done"], one["linear_top1_mean"], one["linear_top1_std"]) == (1, 97.0, None)
    assert (one["few_label_top1_mean"], one["difference_low"]) == (None, None)
    assert one["difference"] == pytest.approx(-0.2)
    assert [rows["K=1024"][k] for k in ("difference", "p", "p_holm")] == [None] * 3


def test_the_untrained_encoder_is_no_member_of_the_family_that_holm_corrects(table: Table) -> None:
    untrained = table.rows[-1].comparison
    assert untrained is not None
    assert untrained.p == pytest.approx(2 / 2**5)
    assert untrained.p_holm is None


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_text_keeps_to_the_width_and_shows_every_cell(table: Table, width: int) -> None:
    lines = text(table, width).splitlines()
    assert max(map(len, lines)) <= width
    wide = text(table, 400)
    for cell in re.findall(r"\d+\.\d ± \d\.\d|\S\d\.\d \[.+?\]|\d \w+ing", wide.split("\n- ")[0]):
        assert cell in "\n".join(lines)


def test_a_p_that_is_no_longer_exact_says_so(tmp_path: Path) -> None:
    seeds = list(range(31))
    write_manifest(tmp_path, manifest({"K=64": seeds, "K=128": seeds}))
    for seed in seeds:
        write_run(tmp_path, "K=64", seed, readouts(90.0, 1, 1, 1))
        write_run(tmp_path, "K=128", seed, readouts(90.0 + seed % 3, 1, 1, 1))
    made = ablation_table(*load_sweep(tmp_path, "queue_size"))
    assert "exact up to 30 pairs, beyond by 20,000 random draws" in " ".join(made.notes)


def test_another_readout_can_be_compared(tmp_path: Path) -> None:
    unfinished_store(tmp_path)
    loaded = load_sweep(tmp_path, "queue_size")
    made = ablation_table(*loaded, metric=schema.KNN20)
    assert made.rows[1].comparison is not None
    assert made.rows[1].comparison.difference == pytest.approx(1.2)
    with pytest.raises(ValueError, match="readout 'top1': not one of linear_top1, knn20_top1"):
        ablation_table(*loaded, metric="top1")


def test_an_unfinished_baseline_pairs_only_the_common_seeds_and_says_so(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0, 1, 2], "K=128": [0, 1, 2]}))
    write_run(tmp_path, "K=64", 1, readouts(90.0, 1, 1, 1))
    for seed in range(3):
        write_run(tmp_path, "K=128", seed, readouts(91.0 + seed, 1, 1, 1))
    made = ablation_table(*load_sweep(tmp_path, "queue_size"))
    assert made.rows[1].comparison is not None
    assert made.rows[1].comparison.n == 1
    assert made.rows[1].comparison.difference == pytest.approx(2.0)
    assert made.rows[1].readouts[schema.LINEAR] == Summary(1, 92.0, None)  # the seed that the difference uses
    assert (
        "K=128: 1 of its 3 finished seeds have a finished baseline to pair with; apart from its row, 2 other seeds 92.0 ± 1.4."
        in made.notes
    )


def test_without_a_finished_baseline_there_is_no_answer(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0], "K=128": [0]}))
    write_run(tmp_path, "K=128", 0, readouts(91.0, 1, 1, 1))
    made = ablation_table(*load_sweep(tmp_path, "queue_size"))
    assert made.answer == "No answer yet: the baseline K=64 has no finished run (1 of 2 runs are done)."
    for format in FORMATS:
        assert render(made, format)


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order; collects the text of the cells."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def test_html_is_whole_ascii_and_says_names_as_they_are(table: Table) -> None:
    named = replace(table, question="Is a < b & c?", rows=(replace(table.rows[0], arm="<K> & 'm'"), *table.rows[1:]))
    made = render(named, "html")
    assert made.isascii()
    page = Balanced()
    page.feed(made)
    assert page.open == []
    assert "<K> & 'm'" in page.cells
    assert "97.7 ± 0.4" in page.cells


def test_markdown_rows_have_as_many_cells_as_the_head_whatever_the_names(table: Table) -> None:
    named = replace(table, rows=(replace(table.rows[0], arm="a|b*c"), *table.rows[1:]))
    rows = [line for line in render(named, "md").splitlines() if line.startswith("|")]
    counts = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert len(counts) == 1
    assert r"a\|b\*c" in rows[2]


def test_tex_leaves_no_special_character_bare(table: Table) -> None:
    named = replace(table, rows=(replace(table.rows[0], arm="50%_a&b#{c}~^"), *table.rows[1:]))
    made = render(named, "tex")
    assert r"50\%\_a\&b\#\{c\}\textasciitilde{}\textasciicircum{} &" in made
    body = made.split(r"\midrule")[1]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body.strip().splitlines()} == {10}
    assert made.isascii()
