"""The exhibit of paired differences: what its rows hold, where it draws them, and how it is dressed. Oracles: scipy's t, the
differences by hand, matplotlib's own transforms, the text in the written files."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats

from analysis.ablation import ablation_table
from analysis.cli import main
from analysis.exhibit import AGAINST_ITSELF, WIDTH, Exhibit, exhibit, levels, place, strip
from analysis.figures.answer import answer_figure
from analysis.figures.axis import axis_figure
from analysis.figures.dress import Dress, darken, dressed, inches
from analysis.figures.forest import forest_figure
from analysis.figures.gallery import KINDS
from analysis.figures.look import inline_svg, interval_of
from analysis.formats import render
from analysis.frame import Loaded, load_sweep
from analysis.sources import RunDirectories
from analysis.stats import SEEDS_TO_CLAIM
from analysis.style import DARK_INK, DARK_PAPER, INK, PAPER
from experiments.store import schema
from tests.analysis.test_figures import STORES, assert_legible, crossed, momentum, unfinished
from tests.support.analysis_runs import manifest, readouts, write_manifest, write_run

BASE = (90.0, 91.0, 90.5, 92.0, 89.5)
ABOVE = {"K=128": (1.0, 1.0, 1.5, 2.0, 1.0), "K=256": (-3.0, 4.0, 0.5, 0.5, -1.0)}  # points over the baseline


def written(root: Path, **planned: object) -> Loaded:
    """K=256 has a sixth seed that diverged; the untrained encoder is far below."""
    seeds = list(range(5))
    arms = {"K=64": seeds, "K=128": seeds, "K=256": [*seeds, 5], schema.RANDOM_INIT: seeds}
    write_manifest(root, manifest(arms, **planned))
    for seed, base in enumerate(BASE):
        write_run(root, "K=64", seed, readouts(base, 1, 1, 1))
        for arm, above in ABOVE.items():
            write_run(root, arm, seed, readouts(base + above[seed], 1, 1, 1))
        write_run(root, schema.RANDOM_INIT, seed, readouts(40.0 + seed, 1, 1, 1))
    write_run(root, "K=256", 5, state=schema.FAILED, diverged=True, reason="the loss is not finite at step 3")
    return load_sweep(root, "queue_size")


def of(root: Path) -> Exhibit:
    return exhibit(ablation_table(*written(root)))


def test_a_row_holds_the_differences_of_its_seeds_and_two_intervals(tmp_path: Path) -> None:
    shown = of(tmp_path)
    assert [line.name for line in shown.lines] == ["K=128", "K=256", schema.RANDOM_INIT, f"K=64 ({AGAINST_ITSELF})"]
    for line in shown.lines[:2]:
        above = np.array(ABOVE[line.name])
        assert list(line.dots.values()) == pytest.approx(above.tolist())
        assert line.interval == pytest.approx(stats.t.interval(0.95, 4, above.mean(), stats.sem(above)))
        # Bonferroni over two arms
        assert line.simultaneous == pytest.approx(stats.t.interval(0.975, 4, above.mean(), stats.sem(above)))
    assert [line.diverged for line in shown.lines] == [(), (5,), (), ()]


def test_the_simultaneous_intervals_hold_all_true_differences_in_95_of_100_sweeps() -> None:
    rng, arms, repeats = np.random.default_rng(0), 4, 3000
    reach = stats.t.ppf(1 - 0.05 / arms / 2, 4)
    d = rng.normal(0, 1, (repeats, arms, 5)) - rng.normal(0, 1, (repeats, 1, 5))  # one baseline for all
    within = np.abs(d.mean(2)) <= reach * d.std(2, ddof=1) / np.sqrt(5)
    assert within.all(1).mean() >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / repeats)


def test_the_control_is_the_baseline_against_itself_at_other_seeds(tmp_path: Path) -> None:
    control = of(tmp_path).lines[-1]
    assert control.kind == AGAINST_ITSELF
    assert control.dots == pytest.approx({0: BASE[0] - BASE[1], 2: BASE[2] - BASE[3]})
    assert control.comparison is not None
    assert control.comparison.n == 2


def test_equal_seeds_stand_on_each_other() -> None:
    assert levels([1.0, 1.0, 1.0], 0.1) == [0, 1, 2]
    assert levels([0.0, 0.05, 0.1, 0.2], 0.1) == [0, 1, 0, 0]
    rng = np.random.default_rng(3)
    places, found = rng.uniform(0, 3, 60).round(1).tolist(), []
    found = levels(places, 0.25)
    for (x, a), (y, b) in itertools.combinations(zip(places, found, strict=True), 2):
        assert a != b or abs(x - y) >= 0.25


def zeros_and_ends(page: str) -> tuple[list[float], list[float]]:
    strips = [ElementTree.fromstring(svg) for svg in re.findall(r'<svg class="interval".*?</svg>', page)]
    zeros = [float(line.get("x1", "nan")) for svg in strips for line in svg.iter("line") if line.get("class") == "zero"]
    ends = [float(line.get(x, "nan")) for svg in strips for line in svg.iter("line") for x in ("x1", "x2")]
    return zeros, ends


def test_the_small_drawings_of_a_table_share_one_zero_and_leave_nothing_out(tmp_path: Path) -> None:
    loaded = written(tmp_path)
    table = ablation_table(*loaded)
    page = render(table, "html")
    zeros, ends = zeros_and_ends(page)
    assert len(zeros) == 4  # the baseline's row has the control
    assert len(set(zeros)) == 1
    assert zeros[0] == pytest.approx(place(0.0, exhibit(table).scale), abs=0.05)
    assert min(ends) >= 0
    assert max(ends) <= WIDTH
    shown = exhibit(table)
    line = shown.lines[1]
    assert strip(line, shown.scale).count('class="seed"') == 5
    assert strip(line, shown.scale).count('class="cross"') == 1


def dots_of(figure: Figure) -> np.ndarray:
    return np.concatenate([c.get_offsets() for c in figure.axes[-1].collections if isinstance(c, PathCollection)])


def test_the_figure_draws_every_seed_a_cross_for_each_diverged_one_and_fills_claims_alone(tmp_path: Path) -> None:
    loaded = written(tmp_path)
    figure = forest_figure(*loaded)
    (ax,) = figure.axes
    drawn = sorted(round(float(x), 9) for x, _ in dots_of(figure))
    expected = [*ABOVE["K=128"], *ABOVE["K=256"], BASE[0] - BASE[1], BASE[2] - BASE[3]]
    assert drawn == pytest.approx(
        sorted(expected)
    )  # the untrained encoder is off the scale, and its number stands beside it
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert len(crosses) == 1
    diamonds = {int(np.ravel(m.get_ydata())[0]): m for m in ax.lines if m.get_marker() == "D"}
    assert to_hex(diamonds[0].get_markerfacecolor()) != to_hex(PAPER)  # higher by 1.3 with five seeds
    assert to_hex(diamonds[1].get_markerfacecolor()) == to_hex(PAPER)
    assert len(BASE) == SEEDS_TO_CLAIM
    assert f"{schema.RANDOM_INIT}" in [t.get_text() for t in ax.get_yticklabels()]
    assert any(t.get_text().startswith("\N{MINUS SIGN}48.6") for t in ax.texts)


@pytest.mark.parametrize("store", [*STORES, written])
def test_no_bar_leaves_the_panel_or_what_a_difference_can_be_and_no_word_lies_on_another(
    tmp_path: Path, store: object
) -> None:
    loaded = store(tmp_path)  # type: ignore[operator]
    for figure in (forest_figure(*loaded), answer_figure(*loaded)):
        assert_legible(figure)
        ax = figure.axes[1 if len(figure.axes) > 1 else 0]
        left, right = ax.get_xlim()
        for line in ax.lines:
            if line.get_transform() == ax.transData:
                xs = np.ravel(line.get_xdata())
                assert ((xs >= left - 1e-9) & (xs <= right + 1e-9)).all()
    for line in exhibit(ablation_table(*loaded)).lines:
        for bound in (*(line.interval or ()), *(line.simultaneous or ())):
            assert -100 <= bound <= 100


def test_a_mean_of_percentages_has_no_bar_above_100(tmp_path: Path) -> None:
    values = [99.0, 99.9, 97.0]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert high > 100
    assert interval_of(values, schema.LINEAR) == (pytest.approx(low), 100.0)
    assert interval_of(values, "another_readout") == pytest.approx((low, high))


def test_no_line_crosses_an_arm_that_has_no_run(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({f"K={k}": [0, 1] for k in (64, 128, 256, 512)}))
    for k in (64, 128, 512):
        for seed in (0, 1):
            write_run(tmp_path, f"K={k}", seed, readouts(90 + seed, 1, 1, 1))
    ax = axis_figure(*load_sweep(tmp_path, "queue_size")).axes[0]
    joined = next(line for line in ax.lines if np.size(line.get_xdata()) == 4)
    assert np.isnan(joined.get_ydata()).tolist() == [False, False, True, False]


def test_equal_seeds_of_an_arm_stand_beside_each_other_on_the_axis(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0, 1, 2], "K=128": [0, 1, 2]}))
    for seed in (0, 1, 2):
        write_run(tmp_path, "K=64", seed, readouts(90.0, 1, 1, 1))
        write_run(tmp_path, "K=128", seed, readouts(95.0 + seed, 1, 1, 1))
    ax = axis_figure(*load_sweep(tmp_path, "queue_size")).axes[0]
    dots = np.concatenate([c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)])
    assert len(np.unique(dots.round(6), axis=0)) == 6


@pytest.mark.parametrize(
    ("text", "width"),
    [("3.25", 3.25), ("3.25in", 3.25), ("8.5cm", 8.5 / 2.54), ("85 mm", 85 / 25.4), ("246pt", 246 / 72.27)],
)
def test_widths(text: str, width: float) -> None:
    assert inches(text) == pytest.approx(width)


@pytest.mark.parametrize("text", ["", "wide", "3,5", "-3", "0.5", "500cm", "3em"])
def test_a_width_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--width"):
        inches(text)


@pytest.mark.parametrize("store", [momentum, crossed, unfinished, written])
def test_a_figure_of_a_papers_column_is_as_wide_as_asked_and_legible(tmp_path: Path, store: object) -> None:
    loaded = store(tmp_path)  # type: ignore[operator]
    for figure in (dressed(f(*loaded), Dress(width=3.4)) for f in (axis_figure, forest_figure)):
        assert figure.get_figwidth() == 3.4
        assert_legible(figure)


def test_a_figure_whose_words_have_no_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have no room in it"):
        dressed(answer_figure(*momentum(tmp_path)), Dress(width=2.0))


def test_the_caption_can_be_left_out_and_the_font_chosen(tmp_path: Path) -> None:
    loaded = momentum(tmp_path)
    figure = dressed(axis_figure(*loaded), Dress(caption=False, font="DejaVu Serif"))
    assert figure.get_supxlabel() == ""
    assert "DejaVu Serif" in inline_svg(figure, "")
    with pytest.raises(ValueError, match="--font DejaVu Serf: not installed here; there are DejaVu Serif"):
        dressed(axis_figure(*loaded), Dress(font="DejaVu Serf"))


def test_in_the_dark_the_houses_colours_are_those_of_a_dark_page(tmp_path: Path) -> None:
    figure = answer_figure(*written(tmp_path))
    darken(figure)
    svg = figure._repr_svg_()
    assert to_hex(figure.get_facecolor()) == DARK_PAPER
    assert DARK_INK in svg
    assert INK not in re.sub(rf"var\([^)]*{INK}\)", "", svg)


def test_the_commands_flags_reach_the_file_and_text_stays_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "runs")
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    plot = ["plot", "queue_size", "--kind", "forest", "--width", "9cm", "--no-caption", "--dark"]
    assert main([*plot, "--out", "a.svg"]) == 0
    svg = (tmp_path / "a.svg").read_text()
    words = [e.text for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert f"K=64 ({AGAINST_ITSELF})" in words
    assert "queue_size@digits" not in svg
    assert DARK_PAPER in svg
    assert f'width="{9 / 2.54 * 72:.6f}'[:12] in svg
    assert main([*plot, "--out", "a.pdf"]) == 0
    assert b"/Type0" in (tmp_path / "a.pdf").read_bytes() or b"/TrueType" in (tmp_path / "a.pdf").read_bytes()
    assert main(["plot", "queue_size", "--width", "wide"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_numbers_there_is_a_figure_that_says_so(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0], "K=128": [0]}))
    loaded = load_sweep(tmp_path, "queue_size")
    assert "no pair of finished seeds yet" in forest_figure(*loaded).get_supxlabel()
    assert "<svg" not in render(ablation_table(*loaded), "html")
    assert_legible(answer_figure(*loaded))


GOLDEN = Path(__file__).parent / "golden" / "figures.json"


def structure(figure: Figure) -> list[dict[str, object]]:
    """What a figure consists of, panel by panel, without places and colours, which other versions of matplotlib change."""
    return [
        {
            "x": ax.get_xlabel(),
            "y": ax.get_ylabel(),
            "title": ax.get_title(loc="left"),
            "markers": Counter(str(line.get_marker()) for line in ax.lines),
            "collections": Counter(type(c).__name__ for c in ax.collections),
            "patches": len(ax.patches),
            "texts": len([t for t in ax.texts if t.get_text()]),
        }
        for ax in figure.axes
    ]


def test_every_kind_consists_of_what_it_did(tmp_path: Path) -> None:
    """Change them on purpose: UPDATE_GOLDEN=1 python -m pytest tests/analysis/test_exhibit.py, then look at the figures."""
    made: dict[str, object] = {}
    for store in (momentum, crossed, unfinished):
        loaded = store(tmp_path / store.__name__)
        source = RunDirectories(tmp_path / store.__name__)
        for name, kind in KINDS.items():
            if not kind.fits(loaded.manifest):
                made[f"{store.__name__} {name}"] = structure(kind.draw(source, loaded, print))
    if os.environ.get("UPDATE_GOLDEN"):
        lines = ",\n".join(
            f"{json.dumps(name)}: {json.dumps(panels, ensure_ascii=False)}" for name, panels in made.items()
        )
        GOLDEN.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    assert made == json.loads(GOLDEN.read_text(encoding="utf-8"))
