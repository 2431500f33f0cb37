"""The figures by kind: what each draws, against closed forms and slow versions."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex

from analysis.figures.curves import (
    DIAGNOSTIC_KEYS,
    KNN_CURVE,
    LOSS,
    LOSS_CURVE,
    LOSS_KEYS,
    PANELS,
    curves_figure,
    diagnostics_figure,
    ends_of_runs,
    loss_figure,
)
from analysis.figures.four_way import four_way_figure, validation_key
from analysis.figures.gallery import KINDS, default_kind, draw, listing
from analysis.figures.heat_map import grid_of, heat_map_figure
from analysis.figures.look import COLOURS, shortened
from analysis.figures.pareto import pareto_figure, sweep_pareto
from analysis.figures.thinning import evenly, few
from analysis.frame import Loaded, curves, load_sweep
from analysis.sources import RunDirectories
from analysis.style import CSS
from experiments.store import schema
from tests.analysis.test_figures import assert_legible, crossed, momentum, named
from tests.support.analysis_runs import (
    START,
    manifest,
    readouts,
    unfinished_store,
    write_journal,
    write_manifest,
    write_run,
)

SEEDS = [0, 1, 2]
TUNED = "validation/finetune_top1"


def losses(root: Path, sizes: tuple[int, ...] = (64, 256, 1024)) -> Loaded:
    """Loss from nine tenths of chance to half of it plus a hundredth per seed; a record every ten steps."""
    planned = manifest({f"K={k}": SEEDS for k in sizes})
    write_manifest(root, planned)
    for k in sizes:
        for seed in SEEDS:
            shares = np.linspace(0.9, 0.5 + seed / 100, 30)
            chance = math.log(k + 1)
            records = [
                (10 * (i + 1), (i + 1) / 3, {LOSS: share * chance, LOSS_CURVE: share}) for i, share in enumerate(shares)
            ]
            write_journal(write_run(root, f"K={k}", seed, readouts(90, 90, 90, 90)), records)
    return load_sweep(root, "queue_size")


def test_the_loss_stands_over_log_of_k_plus_one(tmp_path: Path) -> None:
    planned, cells = losses(tmp_path)
    journals = curves(tmp_path, cells, LOSS_KEYS)
    ends = ends_of_runs(journals)
    for arm, seed, _, first, last, chance in ends.iter_rows():
        expected = math.log(int(arm[2:]) + 1)
        assert chance == pytest.approx(expected)
        assert (first, last) == (pytest.approx(0.9 * expected), pytest.approx((0.5 + seed / 100) * expected))
    left, right = loss_figure(planned, journals).axes
    levels = [math.log(k + 1) for k in (64, 256, 1024)]
    assert list(right.get_xticks()) == pytest.approx(levels)
    chance_line = right.lines[0]
    assert np.array_equal(chance_line.get_xdata(), chance_line.get_ydata())
    drawn = {
        (float(x), float(y))
        for line in right.lines
        if line.get_marker() == "o"
        for x, y in zip(np.ravel(line.get_xdata()), np.ravel(line.get_ydata()), strict=True)
    }
    for level in levels:  # the mean of the three seeds' last losses
        assert any(x == pytest.approx(level) and y == pytest.approx(0.51 * level) for x, y in drawn)
    dashed = sorted(float(np.ravel(line.get_ydata())[0]) for line in left.lines if list(line.get_xdata()) == [0, 1])
    assert dashed == pytest.approx(levels)


def test_one_queue_length_has_one_chance_line_that_says_its_level(tmp_path: Path) -> None:
    planned, cells = losses(tmp_path, (1024,))
    (ax,) = loss_figure(planned, curves(tmp_path, cells, LOSS_KEYS)).axes
    assert [t.get_text() for t in ax.texts] == [f"chance: log(K + 1) = {math.log(1025):.2f}"]


def test_a_pareto_figure_takes_plain_numbers_in_hours(tmp_path: Path) -> None:
    figure = pareto_figure([1.0, 4.0, 30.0], [70.0, 80.0, 75.0], ["a", "b", "c"], marked="b")
    (ax,) = figure.axes
    assert ax.get_xlabel() == "GPU-hours per run"
    assert ax.get_xscale() == "log"
    front = next(line for line in ax.lines if line.get_drawstyle() == "steps-post")
    assert np.allclose(front.get_xdata(), [1.0, 4.0])
    assert np.allclose(front.get_ydata(), [70.0, 80.0])
    assert {text.get_text() for text in ax.texts} == {"a", "b", "c"}
    assert pareto_figure([0.5], [70.0], ["a"], unit="CPU-h").axes[0].get_xlabel() == "CPU-minutes per run"
    with pytest.raises(ValueError, match="2 hours, 1 accuracies"):
        pareto_figure([1.0, 2.0], [70.0], ["a"])
    assert_legible(pareto_figure([], [], []))


def test_names_of_many_points_stand_clear_of_each_other_and_the_rest_is_counted() -> None:
    draws = random.Random(1)
    names = [f"lr={draws.random():.4f},T={i / 100:.2f}" for i in range(120)]
    figure = pareto_figure([1 + draws.random() for _ in names], [80 + draws.random() for _ in names], names)
    assert_legible(figure)
    written = len(figure.axes[0].texts)
    assert 0 < written < 120
    assert figure.get_supxlabel().replace("\n", " ").endswith(f"Without a name for want of room: {120 - written}.")


def test_a_sweep_costs_the_mean_hours_of_its_finished_runs(tmp_path: Path) -> None:
    planned = manifest({"K=64": SEEDS, "K=128": SEEDS})
    write_manifest(tmp_path, planned)
    gpu = [{**START, "hardware": "NVIDIA H100 80GB HBM3"}]
    for seed in SEEDS:
        write_run(tmp_path, "K=64", seed, readouts(90 + seed, 1, 1, 1), seconds=3600 * (seed + 2), attempts=gpu)
    write_run(tmp_path, "K=128", 0, state=schema.FAILED, reason="no")
    (ax,) = sweep_pareto(*load_sweep(tmp_path, "queue_size")).axes
    assert ax.get_xlabel() == "GPU-hours per run"
    points = [
        (float(np.ravel(p.get_xdata())[0]), float(np.ravel(p.get_ydata())[0]))
        for p in ax.lines
        if p.get_marker() == "o"
    ]
    assert set(points) == {(3.0, 91.0)}


def cells_of(figure_axis: object) -> np.ndarray:
    (mesh,) = [c for c in figure_axis.collections if isinstance(c, QuadMesh)]  # type: ignore[attr-defined]
    return np.ma.filled(mesh.get_array().astype(float), np.nan)


def test_a_heat_map_holds_the_mean_of_each_cell(tmp_path: Path) -> None:
    planned, cells = crossed(tmp_path)
    grid = grid_of(planned)
    assert grid is not None
    assert list(grid.rows) == ["linear", "mlp"]
    assert list(grid.columns) == ["0.07", "0.1", "0.2", "0.3", "0.4", "0.5"]
    shown = cells_of(heat_map_figure(planned, cells).axes[0])
    expected = [[90 + a + t + 0.2 for t in (0.07, 0.1, 0.2, 0.3, 0.4, 0.5)] for a in (0, 3)]
    assert np.allclose(shown, expected)


def test_declared_factors_make_a_grid_with_its_missing_cell_empty(tmp_path: Path) -> None:
    at = {"v1": ("off", "off"), "mlp": ("on", "off"), "aug": ("off", "on"), "mlp+aug": ("on", "on")}
    planned = manifest(
        dict.fromkeys(at, SEEDS),
        axis=None,
        axis_values={},
        factors={arm: {"mlp": m, "aug": a} for arm, (m, a) in at.items()},
    )
    write_manifest(tmp_path, planned)
    for value, arm in enumerate(("v1", "mlp", "aug")):
        for seed in SEEDS:
            write_run(tmp_path, arm, seed, readouts(80 + value + seed, 1, 1, 1))
    figure = heat_map_figure(*load_sweep(tmp_path, "queue_size"))
    assert np.allclose(cells_of(figure.axes[0]), [[81, 82], [83, np.nan]], equal_nan=True)
    assert [t.get_text() for t in figure.axes[0].texts].count("missing") == 1
    assert_legible(figure)
    assert default_kind(planned) == "heat-map"


def test_arms_that_cross_nothing_have_no_map(tmp_path: Path) -> None:
    loaded = momentum(tmp_path)
    with pytest.raises(ValueError, match="no product of two factors; draw one of answer, "):
        draw("heat-map", RunDirectories(tmp_path), loaded)
    with pytest.raises(ValueError, match="--kind axes: not one of answer, "):
        draw("axes", RunDirectories(tmp_path), loaded)
    with pytest.raises(ValueError, match="a heat map needs a grid"):
        heat_map_figure(*loaded)


def test_diagnostics_are_bands_over_steps(tmp_path: Path) -> None:
    planned = manifest({"K=64": SEEDS})
    write_manifest(tmp_path, planned)
    for seed in SEEDS:
        run = write_run(tmp_path, "K=64", seed, readouts(1, 1, 1, 1))
        write_journal(run, [(100 * i, i / 7, dict.fromkeys(DIAGNOSTIC_KEYS, i + seed / 2)) for i in range(1, 21)])
    figure = diagnostics_figure(planned, curves(tmp_path, load_sweep(tmp_path, "queue_size").cells, DIAGNOSTIC_KEYS))
    assert [ax.get_title(loc="left") for ax in figure.axes] == [title for title, _ in PANELS.values()]
    for ax in figure.axes:
        (line,) = ax.lines
        assert np.allclose(line.get_xdata(), 100 * np.arange(1, 21))
        assert np.allclose(line.get_ydata(), np.arange(1, 21) + 0.5)
        (band,) = ax.collections
        heights = band.get_paths()[0].vertices[:, 1]  # type: ignore[index]
        assert (heights.min(), heights.max()) == (1.0, 21.0)


def four_way(root: Path) -> Loaded:
    """Only the pre-trained arms have a kNN; all have a curve of fine-tuning."""
    values = {"resnet": 60.0, "moco_resnet": 80.0, "vit": 50.0, "moco_vit": 70.0, schema.RANDOM_INIT: 30.0}
    planned = manifest(
        dict.fromkeys(values, SEEDS), name="four_way", label="four_way@digits", axis=None, axis_values={}
    )
    write_manifest(root, planned)
    for arm, value in values.items():
        for seed in SEEDS:
            run = write_run(root, arm, seed, readouts(value + seed, 1, 1, 1))
            records = [(1000 + e, float(e), {TUNED: value - 20 / e}) for e in range(1, 9)]
            records.append((980, 98.0, {TUNED: value}))  # the readouts, at the step where training ended
            pretrained = [(10 * e, float(e), {KNN_CURVE: 50.0}) for e in range(1, 99)] if "moco" in arm else []
            if arm != schema.RANDOM_INIT:
                write_journal(run, pretrained + records)
    return load_sweep(root, "four_way")


def test_four_ways_are_read_off_the_curve_that_all_of_them_have(tmp_path: Path) -> None:
    loaded = four_way(tmp_path)
    planned, cells = loaded
    journals = curves(tmp_path, cells, (KNN_CURVE, TUNED))
    assert validation_key(journals) == TUNED
    assert default_kind(planned) == "four-way"
    figure = draw("four-way", RunDirectories(tmp_path), loaded)
    assert_legible(figure)
    left, right = figure.axes
    by_arm = {str(line.get_label()): line for line in left.lines}
    assert np.allclose(by_arm["moco_vit"].get_ydata(), [70 - 20 / e for e in range(1, 9)])
    for backbone in ("resnet", "vit"):  # twins share a colour, and the dash tells them apart
        scratch, twin = by_arm[backbone], by_arm[f"moco_{backbone}"]
        assert scratch.get_color() == twin.get_color()
        assert scratch.get_linestyle() != twin.get_linestyle()
    assert [t.get_text() for t in right.texts] == ["61.0", "81.0", "51.0", "71.0", "random init 31.0"]
    alone = four_way_figure(planned, cells, curves(tmp_path, cells, (KNN_CURVE,)))
    assert "No validation/knn20_top1 from resnet, vit." in alone.get_supxlabel().replace("\n", " ")


def test_a_sweep_gets_the_figure_that_fits_it(tmp_path: Path) -> None:
    assert default_kind(momentum(tmp_path / "a").manifest) == "answer"
    assert (
        default_kind(crossed(tmp_path / "b").manifest) == "answer"
    )  # two lines are read more easily than twelve cells
    assert default_kind(named(tmp_path / "c").manifest) == "answer"
    told = listing(crossed(tmp_path / "d").manifest)
    assert [line.split()[0] for line in told.splitlines()] == list(KINDS)
    assert told.count("(default)") == 1


def test_few_arms_are_chosen_without_a_look_at_their_results(tmp_path: Path) -> None:
    arms = {f"K={k}": list(range(12)) for k in (512, *range(1, 401))}
    planned = manifest(arms | {schema.RANDOM_INIT: [0]}, published={"K=7": 1.0})
    write_manifest(tmp_path, planned)
    loaded = load_sweep(tmp_path, "queue_size")
    thin, cells, left_out = few(*loaded, 11, 3)
    assert thin["arms"] == ["K=512", *(f"K={k}" for k in evenly(range(1, 401), 10)), schema.RANDOM_INIT]
    assert thin["arms"][1:3] == ["K=1", "K=45"]
    assert thin["arms"][-2] == "K=400"
    assert set(cells["arm"]) == {c["arm"] for c in thin["cells"]} == set(thin["arms"])
    assert thin["seeds"] == [0, 1, 2]
    assert set(cells["seed"]) == {0, 1, 2}
    assert thin["published"] == {}
    assert left_out == (
        "Shown: 11 of 401 arms: the baseline and others evenly over the sweep's order; the first 3 of 12 seeds. "
    )
    assert few(*loaded, 500).left_out == ""
    figure = draw("curves", RunDirectories(tmp_path), loaded)
    assert "Shown: 12 of 401 arms" in figure.get_supxlabel().replace("\n", " ")


def test_every_kind_says_when_nothing_has_run(tmp_path: Path) -> None:
    unfinished_store(tmp_path)
    planned, cells = load_sweep(tmp_path, "queue_size")
    empty = cells.clear()
    nothing = curves(tmp_path, empty, ())
    for figure in (
        sweep_pareto(planned, empty),
        curves_figure(planned, nothing),
        loss_figure(planned, nothing),
        diagnostics_figure(planned, nothing),
        four_way_figure(planned, empty, nothing),
    ):
        assert_legible(figure)


def test_the_arms_colours_are_those_of_the_page_at_night_only_once() -> None:
    night = CSS[CSS.index("prefers-color-scheme: dark") :]
    assert to_hex(COLOURS[0]) not in map(to_hex, COLOURS[1:])
    assert not [c for c in map(to_hex, COLOURS[1:]) if c in night]


def test_long_names_lose_their_middle() -> None:
    assert shortened("resnet50-width=64", 40) == "resnet50-width=64"
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert len(shortened("x" * 99, 28)) == 28


def test_many_long_names_stay_on_the_page(tmp_path: Path) -> None:
    arms = [
        f"resnet50-width{w}-{h}-temperature=0.{t}" for w in (16, 32, 64) for h in ("linear", "mlp") for t in (1, 2, 3)
    ]
    planned = manifest(dict.fromkeys(arms, SEEDS), axis=None, axis_values={})
    write_manifest(tmp_path, planned)
    for i, arm in enumerate(arms):
        for seed in SEEDS:
            write_journal(write_run(tmp_path, arm, seed, readouts(60 + i, 1, 1, 1)), [(1, 1.0, {KNN_CURVE: 50.0 + i})])
    loaded = load_sweep(tmp_path, "queue_size")
    for name in ("axis", "four-way", "curves", "per-arm", "diagnostics", "pareto"):
        assert_legible(draw(name, RunDirectories(tmp_path), loaded))


def test_ticks_of_many_places_are_not_all_named(tmp_path: Path) -> None:
    planned = manifest({f"K={k}": [0] for k in range(1, 90)})
    write_manifest(tmp_path, planned)
    for k in range(1, 90):
        write_run(tmp_path, f"K={k}", 0, readouts(50 + k / 3, 1, 1, 1))
    figure = draw("axis", RunDirectories(tmp_path), load_sweep(tmp_path, "queue_size"))
    ticks = [t.get_text().strip() for t in figure.axes[0].get_xticklabels()]
    assert len(ticks) == 89
    assert 2 <= len([t for t in ticks if t]) <= 14
    assert ticks[0].startswith("1")
    assert ticks[-1] == "89"


def test_published_numbers_have_a_map_beside_ours(tmp_path: Path) -> None:
    planned, cells = crossed(tmp_path)
    published = {arm: 50.0 + i for i, arm in enumerate(planned["arms"])}
    figure = heat_map_figure({**planned, "published": published, "published_source": "Chen et al."}, cells)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["linear top-1, %", "published, %"]
    assert np.allclose(cells_of(figure.axes[1]), np.arange(50.0, 62.0).reshape(2, 6))
    assert_legible(figure)
    assert len(heat_map_figure(*queue_grid(tmp_path)).axes) == 1


def queue_grid(root: Path) -> Loaded:
    return crossed(root / "again")
