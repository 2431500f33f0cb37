from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from scipy import stats as scipy_stats

from analysis.figures.axis import axis_figure
from analysis.figures.curves import KNN_CURVE, LOSS_CURVE, bands, curves_figure, thinned
from analysis.figures.gallery import KINDS
from analysis.figures.look import inline_svg, save
from analysis.figures.scales import axis_scale, series
from analysis.frame import Loaded, curves, load_sweep
from analysis.sources import RunDirectories
from analysis.style import INK, LINE, MUTED
from experiments.store import schema
from experiments.store.schema import Manifest
from tests.support.analysis_runs import manifest, readouts, unfinished_store, write_journal, write_manifest, write_run

SEEDS = [0, 1, 2]


def written(root: Path, planned: Manifest, values: dict[str, float]) -> Loaded:
    write_manifest(root, planned)
    for arm, value in values.items():
        for seed in SEEDS:
            path = write_run(root, arm, seed, readouts(value + seed / 5, value - 3 + seed, value - 4, value - 12))
            write_journal(
                path,
                [(10 * e, float(e), {KNN_CURVE: value - 30 / e + seed, LOSS_CURVE: 1 - e / 40}) for e in range(1, 31)],
            )
    return load_sweep(root, planned["name"])


def momentum(root: Path) -> Loaded:
    values = {"m=0.99": 98.0, "m=0": 84.0, "m=0.9": 94.0, "m=0.999": 98.2, "m=0.9999": 97.0, schema.RANDOM_INIT: 86.0}
    places = {arm: float(arm[2:]) for arm in values if arm.startswith("m=")}
    return written(
        root, manifest(dict.fromkeys(values, SEEDS), axis="key_encoder.momentum", axis_values=places), values
    )


def queue(root: Path) -> Loaded:
    sizes = [16_384, *(2**i for i in range(8, 14)), 32_768, 65_536]
    values: dict[str, float] = {f"K={k}": 90 + np.log2(k) / 3 for k in sizes} | {schema.RANDOM_INIT: 40.0}
    published = {"K=16384": 60.4, "K=65536": 60.6, "K=4096": 59.0}
    return written(
        root, manifest(dict.fromkeys(values, SEEDS), published=published, published_source="He et al. 2020"), values
    )


def crossed(root: Path) -> Loaded:
    """Head x temperature: two lines on one axis."""
    values = {
        f"{h}-T={t:g}": 90 + a + t for h, a in (("linear", 0), ("mlp", 3)) for t in (0.07, 0.1, 0.2, 0.3, 0.4, 0.5)
    }
    planned = manifest(
        dict.fromkeys(values, SEEDS),
        axis="loss.temperature",
        axis_values={arm: float(arm.split("=")[1]) for arm in values},
    )
    for cell in planned["cells"]:
        hidden = [0] if cell["arm"].startswith("mlp") else []
        cell["config"] = {"head": {"hidden": hidden}, "loss": {"temperature": 0}, "train": {"seed": cell["seed"]}}
    return written(root, planned, values)


def named(root: Path) -> Loaded:
    values = {
        f"{head},{augment},{lr}": 94.0 + i
        for i, (head, augment, lr) in enumerate(
            itertools.product(("linear", "mlp"), ("aug", "aug+"), ("step", "cosine"))
        )
    } | {schema.RANDOM_INIT: 93.0}
    return written(root, manifest(dict.fromkeys(values, SEEDS), axis=None, axis_values={}), values)


def unfinished(root: Path) -> Loaded:
    unfinished_store(root)
    return load_sweep(root, "queue_size")


def nothing(root: Path) -> Loaded:
    return written(root, manifest({"K=64": SEEDS, "K=128": SEEDS, schema.RANDOM_INIT: SEEDS}), {})


STORES = [momentum, queue, crossed, named, unfinished, nothing]


def drawn_words(figure: Figure) -> dict[str, Bbox]:
    """What was written on the page, with its boxes; a slanted word's box says little and is left out."""
    written: list[Text] = []
    draw = Text.draw

    def noted(self: Text, *args: Any, **kwargs: Any) -> None:
        written.append(self)
        draw(self, *args, **kwargs)

    canvas = FigureCanvasAgg(figure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        canvas.draw()  # type: ignore[no-untyped-call]
    level = [
        t for t in dict.fromkeys(written) if t.get_visible() and t.get_text().strip() and t.get_rotation() % 90 == 0
    ]
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    return {f"{i} {text.get_text()}": text.get_window_extent(renderer) for i, text in enumerate(level)}


def assert_legible(figure: Figure) -> None:
    words = drawn_words(figure)
    assert words
    for text, box in words.items():
        assert figure.bbox.padded(1).contains(box.x0, box.y0), f"{text!r} leaves the page"
        assert figure.bbox.padded(1).contains(box.x1, box.y1), f"{text!r} leaves the page"
    for (one, a), (other, b) in itertools.combinations(words.items(), 2):
        assert not a.padded(-0.5).overlaps(b.padded(-0.5)), f"{one!r} lies on {other!r}"


@pytest.mark.parametrize("store", STORES)
def test_no_word_lies_on_another_or_leaves_the_page(tmp_path: Path, store: Callable[[Path], Loaded]) -> None:
    planned, cells = store(tmp_path)
    assert_legible(axis_figure(planned, cells, schema.READOUTS[1:4]))
    for kind in KINDS.values():
        if not kind.fits(planned):
            assert_legible(kind.draw(RunDirectories(tmp_path), Loaded(planned, cells), print))


def test_an_axis_figure_draws_means_intervals_and_seeds(tmp_path: Path) -> None:
    planned, cells = momentum(tmp_path)
    ax = axis_figure(planned, cells).axes[0]
    # -log10(1 - m): equal steps for 0, 0.9, 0.99, ...
    by_place = {0: 84.0, 1: 94.0, 2: 98.0, 3: 98.2, 4: 97.0}
    mean = next(line for line in ax.lines if np.size(line.get_xdata()) == 5)
    assert np.allclose(mean.get_xdata(), list(by_place))
    assert np.allclose(mean.get_ydata(), [v + 0.2 for v in by_place.values()])
    values = np.array([84.0, 84.2, 84.4])
    expected = scipy_stats.t.interval(0.95, 2, values.mean(), scipy_stats.sem(values))
    bars = [segment for c in ax.collections if isinstance(c, LineCollection) for segment in c.get_segments()]
    assert any(np.allclose(bar, [(0, expected[0]), (0, expected[1])]) for bar in bars)
    dots = np.concatenate([c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)])
    assert sorted(dots[:, 1]) == pytest.approx(sorted(v + s / 5 for v in by_place.values() for s in SEEDS))
    assert [t.get_text().strip() for t in ax.get_xticklabels()] == ["0", "0.9", "0.99\nbaseline", "0.999", "0.9999"]


def test_scales_and_lines_follow_what_the_arms_vary(tmp_path: Path) -> None:
    sizes = axis_scale(queue(tmp_path / "a").manifest)
    assert sizes is not None
    assert {arm: sizes.positions[arm] for arm in ("K=256", "K=65536")} == {"K=256": 8.0, "K=65536": 16.0}
    assert set(series(crossed(tmp_path / "b").manifest).values()) == {"linear", "mlp"}
    assert axis_scale(named(tmp_path / "c").manifest) is None


def test_runs_that_are_not_done_are_no_dots(tmp_path: Path) -> None:
    ax = axis_figure(*unfinished(tmp_path)).axes[0]
    dots = np.concatenate([c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)])
    assert len(dots) == 5 + 5 + 1  # K=1024, K=512 and one seed of K=256


def test_bands_go_from_the_lowest_to_the_highest_seed(tmp_path: Path) -> None:
    _, cells = momentum(tmp_path)
    frame = curves(tmp_path, cells.filter(arm="m=0.9"), [KNN_CURVE])
    band = bands(thinned(frame))
    epochs = np.arange(1, 31)
    assert np.allclose(band["epoch"], epochs)
    assert np.allclose(band["value"], 94 - 30 / epochs + 1)
    assert np.allclose(band["low"], 94 - 30 / epochs)
    assert np.allclose(band["high"], 94 - 30 / epochs + 2)


def test_thinning_keeps_the_mean_of_a_dense_journal(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0]}))
    path = write_run(tmp_path, "K=64", 0, readouts(1, 2, 3, 4))
    write_journal(path, [(i, i / 100, {"train/loss": float(i)}) for i in range(1, 20_001)])
    thin = thinned(curves(tmp_path, load_sweep(tmp_path, "queue_size").cells, ["train/loss"]), points=101)
    assert thin.height == 101
    assert np.allclose(thin["value"], thin["epoch"] * 100)  # a straight line stays one
    assert thin["value"].is_sorted()


def test_the_same_numbers_make_the_same_file(tmp_path: Path) -> None:
    loaded = momentum(tmp_path)
    for suffix in ("svg", "pdf", "png"):
        one, other = tmp_path / "new" / f"one.{suffix}", tmp_path / f"other.{suffix}"
        save(axis_figure(*loaded), one)
        save(axis_figure(*loaded), other)
        assert one.read_bytes() == other.read_bytes()
    with pytest.raises(ValueError, match=r"one\.gif: a figure is written as \.svg, \.pdf, \.png"):
        save(axis_figure(*loaded), tmp_path / "one.gif")


def test_an_inline_figure_takes_the_colours_of_its_page(tmp_path: Path) -> None:
    svg = inline_svg(axis_figure(*momentum(tmp_path)), "a label")
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "a label"
    assert "currentColor" in svg
    for ours in (INK, MUTED, LINE):
        assert not re.search(rf"(?<!, ){ours}", svg)


def test_unknown_names_are_refused_with_those_that_exist(tmp_path: Path) -> None:
    planned, cells = nothing(tmp_path)
    with pytest.raises(ValueError, match="readout 'top1': not one of linear_top1"):
        axis_figure(planned, cells, ["top1"])
    with pytest.raises(ValueError, match="curve 'train/los': not one of train/loss, "):
        curves_figure(planned, curves(tmp_path, cells, []), ["train/los"])
