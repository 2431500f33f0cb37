"""The report as a reader has it: one file in a browser without a network, on a wide screen and a phone, by day and night."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis.ablation import ablation_table
from analysis.cli import main
from analysis.frame import load_sweep
from analysis.report.failures import failure_summary, groups
from analysis.report.index import INDEX, file_name
from analysis.report.report import cost
from analysis.style import BLUE, CSS, INK, LINE, MUTED, PAPER, VERMILLION
from experiments.store import schema
from tests.support.analysis_runs import (
    START,
    manifest,
    readouts,
    unfinished_store,
    write_journal,
    write_manifest,
    write_run,
)
from tests.support.parts import require_part

BROWSER = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"
GPU = [{**START, "hardware": "NVIDIA H100 80GB HBM3"}]
# Of every text on the page: its colour and the first background under it, as three numbers each.
COLOURS = """() => [...document.querySelectorAll('h1, h2, p, td, th, dd, dt, code, a, li')].filter(e => e.innerText).map(e => {
  const read = c => c.match(/[\\d.]+/g).map(Number);
  let under = e; while (read(getComputedStyle(under).backgroundColor)[3] === 0) under = under.parentElement;
  return [e.innerText.slice(0, 40), read(getComputedStyle(e).color), read(getComputedStyle(under).backgroundColor)]})"""


def store(root: Path) -> None:
    """Finished, failed, diverged, running and missing runs with their journals, and a second sweep with long names."""
    unfinished_store(root)
    for run in sorted(root.glob("K*")):
        records = [
            (
                10 * e,
                float(e),
                {
                    "validation/knn20_top1": 90.0 + e,
                    "train/loss": 6.0 - e / 5,
                    "train/loss_over_chance": (6.0 - e / 5) / 7,
                    "train/gap": e / 40,
                    "features/rank": 10.0 + e,
                },
            )
            for e in range(1, 13)
        ]
        write_journal(run, records)
    arms = [f"resnet50-width={w}-temperature=0.{t}-with-a-long-name" for w in (16, 64) for t in (1, 2, 5)]
    planned = manifest(
        {arm: [0, 1] for arm in arms},
        name="wide",
        label="wide@folder,optim.lr=0.06",
        axis=None,
        axis_values={},
        question="Is it wide enough?",
        updated="2026-10-01T12:00:00.000+00:00",
    )
    write_manifest(root, planned)
    for i, arm in enumerate(arms):
        write_run(root, arm, 0, readouts(80.0 + i, 70, 60, 50), seconds=1800, attempts=GPU)
        write_run(root, arm, 1, state=schema.FAILED, reason=f"CUDA out of memory: tried to allocate {i + 2}.5 GiB")


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG 2, of two sRGB colours in 0..255."""

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.browser
def test_reports_open_without_a_network_on_each_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from playwright.sync_api import sync_playwright

    chromium = require_part("chromium")
    store(tmp_path / "runs")
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    assert main(["report", "--all", "--out", str(tmp_path / "reports")]) == 0
    pages = sorted((tmp_path / "reports").glob("*.html"))
    assert len(pages) == 3
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER.split())
        for scheme in ("light", "dark"):
            for width in (1400, 375):
                context = browser.new_context(
                    viewport={"width": width, "height": 800},
                    color_scheme="dark" if scheme == "dark" else "light",
                    offline=True,
                )
                page = context.new_page()
                page.on("console", lambda message: complaints.append(message.text))
                page.on("pageerror", lambda error: complaints.append(str(error)))
                page.on("requestfailed", lambda request: complaints.append(request.url))
                for file in pages:
                    page.goto(file.as_uri())
                    check_page(page, f"{file.name} {scheme} {width}")
                    page.screenshot(path=tmp_path / f"{file.stem}-{scheme}-{width}.png", full_page=True)
                context.close()
        walk(browser, tmp_path / "reports" / INDEX)
        browser.close()
    assert complaints == []


def check_page(page: Any, which: str) -> None:
    """Nothing wider than the screen but in a box that scrolls, and every word against its background."""
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth"), f"{which} is wider than the screen"
    for words, colour, under in page.evaluate(COLOURS):
        assert contrast(colour, under) >= 4.5, f"{which}: {words!r} is {colour} on {under}"
    zeros = page.evaluate(
        "[...document.querySelectorAll('.interval .zero')].map(line => line.getBoundingClientRect().x)"
    )
    assert max(zeros, default=0.0) - min(zeros, default=0.0) < 1, (
        f"{which}: the zeros of the rows are not under each other"
    )
    for figure in page.locator("figure svg").all():
        box = figure.bounding_box()
        assert box is not None
        assert box["width"] >= 250, f"{which}: a figure is too small to be read"


def walk(browser: Any, index: Path) -> None:
    """From the page of all sweeps to each and back."""
    page = browser.new_context(offline=True).new_page()
    page.goto(index.as_uri())
    for i, question in enumerate(("How does linear top-1 grow with the number of negatives K?", "Is it wide enough?")):
        page.locator("tbody a").nth(i).click()
        assert page.locator("h1").inner_text() == question
        page.get_by_role("link", name="all sweeps").click()
        assert page.locator("h1").inner_text() == "All sweeps"


def test_failures_that_differ_in_their_numbers_are_one_line(tmp_path: Path) -> None:
    store(tmp_path)
    cells = load_sweep(tmp_path, "wide").cells
    (group,) = groups(cells)
    assert (group.state, len(group.runs), group.seeds, group.alike) == (schema.FAILED, 6, (1,) * 6, True)
    assert group.reason == "CUDA out of memory: tried to allocate 2.5 GiB"
    assert failure_summary(cells) == "6 failed"
    cells = load_sweep(tmp_path, "queue_size").cells
    assert [(g.state, len(g.runs)) for g in groups(cells)] == [
        ("failed", 1),
        ("diverged", 1),
        ("missing", 6),
        ("running", 1),
    ]
    assert failure_summary(cells) == "1 failed, 1 diverged"


def test_the_cost_is_the_hours_of_each_kind_of_device(tmp_path: Path) -> None:
    planned = manifest({"K=64": [0, 1, 2], "K=128": [0, 1]})
    write_manifest(tmp_path, planned)
    for seed in (0, 1, 2):
        write_run(tmp_path, "K=64", seed, readouts(1, 1, 1, 1), seconds=3600 * (seed + 1), attempts=GPU)
    write_run(tmp_path, "K=128", 0, readouts(1, 1, 1, 1), seconds=1800)
    write_run(tmp_path, "K=128", 1, state=schema.FAILED, reason="no", attempts=GPU)
    assert cost(load_sweep(tmp_path, "queue_size").cells) == (
        "6 GPU-h in 3 finished runs (2.0 h each), 0.5 CPU-h in 1 finished run (30 min each)"
    )


def test_the_page_of_all_names_what_it_could_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    store(root)
    newer = manifest({"K=64": [0]}, name="newer", label="newer@digits", store_version=schema.STORE_VERSION + 1)
    write_manifest(root, newer)
    monkeypatch.setenv("MOCO_RUNS", str(root))
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--all"]) == 0
    index = (tmp_path / "reports" / INDEX).read_text()
    assert f"written in store version {schema.STORE_VERSION + 1}" in index
    found = Anchors()
    found.feed(index)
    assert sorted(found.addresses) == sorted(
        file.name.replace("=", "%3D").replace("@", "%40").replace(",", "%2C")
        for file in (tmp_path / "reports").glob("*@*")
    )
    for sweep in ("queue_size", "wide"):
        assert ablation_table(*load_sweep(root, sweep)).answer.replace("&", "&amp;") in index


class Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if tag == "a" and name == "href"]


def test_a_large_sweep_is_cut_down_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = [f"lr={i}" for i in range(150)]
    planned = manifest({arm: list(range(20)) for arm in arms}, axis=None, axis_values={})
    write_manifest(tmp_path, planned)
    for arm in arms:
        write_journal(write_run(tmp_path, arm, 0, readouts(90, 1, 1, 1)), [(1, 1.0, {"validation/knn20_top1": 80.0})])
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path))
    assert main(["report", "queue_size", "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    evenly = "arms: the baseline and others evenly over the sweep&#x27;s order"
    assert f"Shown: 40 of 150 {evenly}." in page  # the readouts
    assert page.count(f"Shown: 12 of 150 {evenly}; the first 10 of 20 seeds.") == 2  # the curves, and those of each arm
    in_words = evenly.replace("&#x27;", "&#39;")
    assert page.count(f"Shown: 60 of 150 {in_words}; the first 12 of 20 seeds.") == 1  # the runs
    assert page.count('data-role="arm"') == 149  # the table has them all


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name one sweep, or give --all"),
        (["queue_size", "--all"], "name one sweep, or give --all"),
        (["--all", "--out", "x.html"], "--all writes a folder of pages"),
        (["--all", "--mlflow", "http://127.0.0.1:9"], "--all reads the run directories"),
        (["queue_size", "--server", "http://127.0.0.1:9"], "MLflow at http://127.0.0.1:9 cannot be read"),
    ],
)
def test_a_report_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    unfinished_store(tmp_path / "runs")
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_style_sheet_has_the_colours_of_the_figures() -> None:
    for name, colour in {"ink": INK, "muted": MUTED, "line": LINE, "paper": PAPER, "high": BLUE}.items():
        assert f"--{name}: {colour};" in CSS
    assert f"--low: {VERMILLION};" in CSS


def test_names_of_reports_are_names_of_files() -> None:
    assert file_name("queue_size@digits,train.epochs=5") == "queue_size@digits,train.epochs=5.html"
    assert file_name("a/b c") == "a-b-c.html"
