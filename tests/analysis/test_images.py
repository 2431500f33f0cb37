"""The interval over seeds and images. Oracles: the textbook's sums of squares by loops, scipy's t, coverage in simulations
with the components that the digits' momentum sweep has, and a bootstrap over both."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.ablation import ablation_table
from analysis.formats import render
from analysis.frame import load_sweep
from analysis.images import crossed_interval, over_images
from analysis.words import MINUS, interval
from experiments.store import schema
from experiments.store.files import replace_json
from tests.support.analysis_runs import manifest, readouts, write_manifest, write_run

SEEDS, IMAGES = 5, 360
LABELS = "0123456789abcdef"


def by_loops(d: np.ndarray) -> tuple[float, float, float]:
    """The three mean squares, as analysis of variance is taught."""
    seeds, images = d.shape
    mean = sum(float(v) for row in d for v in row) / (seeds * images)
    row = [sum(map(float, d[s])) / images for s in range(seeds)]
    column = [sum(map(float, d[:, i])) / seeds for i in range(images)]
    between = images * sum((m - mean) ** 2 for m in row) / (seeds - 1)
    across = seeds * sum((m - mean) ** 2 for m in column) / (images - 1)
    rest = sum((float(d[s, i]) - row[s] - column[i] + mean) ** 2 for s in range(seeds) for i in range(images))
    return between, across, rest / ((seeds - 1) * (images - 1))


def test_it_is_the_textbooks_interval() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(0, 8, (4, 1)) + rng.normal(0, 9, (1, 25)) + rng.normal(1, 15, (4, 25))
    found = crossed_interval(d)
    assert found is not None
    seeds, images, rest = by_loops(d)
    variance = (seeds + images - rest) / 100
    assert images > rest
    half = math.hypot(
        stats.t.ppf(0.975, 3) * math.sqrt(seeds / 100), stats.t.ppf(0.975, 24) * math.sqrt((images - rest) / 100)
    )
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half), rel=1e-9)
    assert found.error_of_seeds**2 + found.error_of_images**2 == pytest.approx(variance, rel=1e-12)


def test_without_a_part_of_the_images_it_is_the_interval_over_seeds() -> None:
    """Every image differs alike within a seed, so that the seeds' means are all there is: scipy's one-sample t."""
    of_seed = np.array([1.0, 3.0, 2.0, 4.5])
    found = crossed_interval(np.tile(of_seed[:, None], (1, 50)))
    assert found is not None
    expected = stats.t.interval(0.95, 3, of_seed.mean(), stats.sem(of_seed))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)


def test_too_few_seeds_have_none_and_equal_seeds_have_the_width_of_rounding() -> None:
    assert crossed_interval(np.zeros((2, 50))) is None
    found = crossed_interval(np.zeros((3, 50)))
    assert found is not None
    assert found.high == -found.low == pytest.approx(stats.t.ppf(0.975, 2) * 2 / math.sqrt(12) / math.sqrt(3))


# Standard deviations, points, of one paired difference on one image, as `crossed_interval`'s mean squares give them for the
# digits' momentum sweep (five seeds, 360 images): two arms that both learn, and trained against untrained.
COMPONENTS = {"alike": (0.3, 7.5, 12.6), "untrained": (1.5, 14.5, 26.0)}


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("name", COMPONENTS)
def test_it_covers_the_difference_at_other_seeds_and_other_images(name: str, seeds: int) -> None:
    of_seed, of_image, rest = COMPONENTS[name]
    rng, hits, alone, repeats = np.random.default_rng(seeds), 0, 0, 1500
    for _ in range(repeats):
        d = rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_image, (1, IMAGES))
        d = 1.2 + d + rng.normal(0, rest, (seeds, IMAGES))
        found = crossed_interval(d)
        assert found is not None
        hits += found.low <= 1.2 <= found.high
        low, high = stats.t.interval(0.95, seeds - 1, d.mean(), stats.sem(d.mean(1)))
        alone += low <= 1.2 <= high
    print(f"{name}, {seeds} seeds: over both {hits / repeats:.3f}, over seeds alone {alone / repeats:.3f}")
    assert 0.93 <= hits / repeats <= 0.97


def binary(rng: np.random.Generator, seeds: int) -> np.ndarray:
    """Two arms' answers, right or wrong: a hit where a normal score of image, image x arm, seed x arm and rest is above 0."""
    easy = rng.normal(1.9, 0.8, IMAGES)
    arms = []
    for shift in (0.0, 0.25):
        score = easy + shift + rng.normal(0, 0.35, IMAGES) + rng.normal(0, 0.12, (seeds, 1))
        arms.append(score + rng.normal(0, 0.55, (seeds, IMAGES)) > 0)
    return 100.0 * arms[1] - 100.0 * arms[0]


def test_it_covers_with_answers_that_are_right_or_wrong() -> None:
    def share(shift: float) -> float:
        spread = math.sqrt(0.8**2 + 0.35**2 + 0.12**2 + 0.55**2)
        return float(stats.norm.cdf((1.9 + shift) / spread))

    truth = 100 * (share(0.25) - share(0.0))
    rng, repeats, hits = np.random.default_rng(1), 1500, 0
    for _ in range(repeats):
        found = crossed_interval(binary(rng, SEEDS))
        assert found is not None
        hits += found.low <= truth <= found.high
    print(f"right or wrong: {hits / repeats:.3f}")
    assert 0.93 <= hits / repeats <= 0.97


def test_its_standard_error_is_that_of_a_bootstrap_over_both() -> None:
    """Seeds and images drawn anew, independently (Owen 2007's pigeonhole bootstrap), whose variance is at most three rests
    too large: with many of both, nearly the same."""
    rng = np.random.default_rng(2)
    d = rng.normal(0, 3, (40, 1)) + rng.normal(0, 20, (1, 300)) + rng.normal(0, 10, (40, 300))
    found = crossed_interval(d)
    assert found is not None
    means = [d[np.ix_(rng.integers(0, 40, 40), rng.integers(0, 300, 300))].mean() for _ in range(3000)]
    assert math.hypot(found.error_of_seeds, found.error_of_images) == pytest.approx(float(np.std(means)), rel=0.06)


def hits(answers: np.ndarray, labels: str = LABELS) -> dict[str, Any]:
    return {"images": len(answers), "labels": labels, "bits": b64encode(np.packbits(answers).tobytes()).decode()}


def sweep(root: Path, seeds: int = SEEDS) -> dict[tuple[str, int], np.ndarray]:
    planned = manifest({"K=64": list(range(seeds)), "K=128": list(range(seeds))})
    write_manifest(root, planned)
    rng, answers = np.random.default_rng(3), {}
    for arm in planned["arms"]:
        for seed in range(seeds):
            answers[arm, seed] = own = rng.random(IMAGES) < (0.9 if arm == "K=64" else 0.93)
            path = write_run(root, arm, seed, readouts(100 * own.mean(), 1, 1, 1))
            replace_json(path / schema.HITS, {schema.LINEAR: hits(own)})
    return answers


def test_the_table_has_both_intervals_and_says_which_is_which(tmp_path: Path) -> None:
    answers = sweep(tmp_path)
    table = ablation_table(*load_sweep(tmp_path, "queue_size"))
    d = np.stack([100.0 * answers["K=128", s] - 100.0 * answers["K=64", s] for s in range(SEEDS)])
    row = next(row for row in table.rows if row.arm == "K=128")
    assert row.over_images == crossed_interval(d)
    assert row.over_images is not None
    assert row.comparison is not None
    assert row.over_images.difference == pytest.approx(row.comparison.difference, abs=1e-9)
    text = render(table, "text", 200)
    assert f" {interval(row.over_images.low, row.over_images.high)} " in text
    assert "these 360 test images" in " ".join(text.split())
    head, _, line, *_ = (row.split(",") for row in render(table, "csv").splitlines())
    assert float(line[head.index("images_low")]) == row.over_images.low
    assert line[head.index("n_images")] == "360"


def no_file(path: Path) -> None:
    (path / schema.HITS).unlink()


def other_images(path: Path) -> None:
    found = json.loads((path / schema.HITS).read_text())
    found[schema.LINEAR]["labels"] = "f" * 16
    replace_json(path / schema.HITS, found)


def other_number(path: Path) -> None:
    """Of a readout that was measured anew since."""
    found = json.loads((path / schema.RESULTS).read_text())
    found["test"][schema.LINEAR] += 1.0
    replace_json(path / schema.RESULTS, found)


def torn(path: Path) -> None:
    (path / schema.HITS).write_text('{"linear_top1": {"ima')


def no_bits(path: Path) -> None:
    replace_json(path / schema.HITS, {schema.LINEAR: {"images": IMAGES, "labels": LABELS, "bits": "not base64!"}})


@pytest.mark.parametrize("harm", [no_file, other_images, other_number, torn, no_bits])
def test_where_one_run_lacks_sound_hits_the_interval_is_missing_and_all_else_stands(tmp_path: Path, harm: Any) -> None:
    sweep(tmp_path)
    harm(tmp_path / "K128-3")
    manifest_, cells = load_sweep(tmp_path, "queue_size", lambda line: None)
    table = ablation_table(manifest_, cells)
    row = next(row for row in table.rows if row.arm == "K=128")
    assert row.over_images is None
    assert row.comparison is not None
    assert row.comparison.n == SEEDS
    assert "images_low" not in render(table, "csv")
    named = cells["problems"].explode().drop_nulls().to_list()
    assert [schema.HITS in line for line in named] == ([True] if harm is torn else [])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.31, 1.26, f"[{MINUS}0.3, +1.3]"), (0.03, 7.5, "[+0.03, +7.50]"), (0.0, 2.0, "[0.0, +2.0]")],
)
def test_a_bound_that_is_not_0_is_not_printed_as_0(low: float, high: float, expected: str) -> None:
    assert interval(low, high) == expected


def test_a_sweep_that_adds_seeds_until_it_is_clear_has_none(tmp_path: Path) -> None:
    sweep(tmp_path)
    planned, cells = load_sweep(tmp_path, "queue_size")
    arms = {arm: cells.filter(arm=arm).to_dicts() for arm in planned["arms"]}
    assert over_images(arms["K=128"], arms["K=64"], schema.LINEAR) is not None
    adaptive: Any = {**planned, "max_seeds": 20}
    assert all(row.over_images is None for row in ablation_table(adaptive, cells).rows)
