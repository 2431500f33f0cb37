"""The time of a folder's runs from a few steps. Oracles: arithmetic; a network that computes many times more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.commands.sweep import run
from experiments.launch.estimate import OVERHEAD_STEPS
from experiments.launch.timing import Pace, paces, smaller
from experiments.plan.baselines import digits, folder
from experiments.plan.overrides import apply
from experiments.plan.proposal import settings
from moco.config import Config, ResNet
from sweeps.temperature import SWEEP
from tests.support.data_files import write_folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = write_folder(tmp_path / "set", per_class=40)
    chosen = [f"data.root={root}", "negatives.size=32", "train.batch_size=16", "train.device=cpu", "train.epochs=20"]
    return apply(folder(), chosen)


def test_a_run_is_its_steps_and_its_images(base: Config) -> None:
    """72 images in batches of 16: 4 steps an epoch; a batch of 8 takes half of a step, and there are 9. Streamed images are
    decoded in each epoch, others once."""
    pace = Pace(step=0.5, decode=0.01)
    assert pace.of_run(base, base) == pytest.approx(0.5 * (20 * 4 + OVERHEAD_STEPS) + 72 * 0.01)
    smaller_batch = apply(base, ["train.batch_size=8", "encoder.batch_norm_splits=4"])
    assert pace.of_run(smaller_batch, base) == pytest.approx(0.25 * (20 * 9 + OVERHEAD_STEPS) + 72 * 0.01)
    streamed = replace(base, data=replace(base.data, stream=True))
    assert pace.of_run(streamed, streamed) == pytest.approx(0.5 * (20 * 4 + OVERHEAD_STEPS) + 20 * 72 * 0.01)


def test_the_cheaper_choice_is_the_small_network_where_that_is_another(base: Config) -> None:
    small = smaller(base)
    assert small is not None
    assert apply(base, settings(small, base)) == small
    assert (small.part(ResNet).depth, small.part(ResNet).width, small.data.image_size) == (8, 16, 32)
    assert smaller(small) is None
    assert smaller(apply(base, ["key_encoder.shuffle=false", "encoder=vit", "encoder.patch=8"])) is None
    assert smaller(digits()) is None


def test_a_large_network_is_timed_as_slower_than_a_small_one(base: Config) -> None:
    """By 100 times the arithmetic; asked for is twice the time, which a busy machine leaves over."""
    small = smaller(base)
    assert small is not None
    large_pace, small_pace = paces([base, small], {"OMP_NUM_THREADS": "1"})
    assert large_pace is not None
    assert small_pace is not None
    assert large_pace.step > 2 * small_pace.step > 0
    assert large_pace.decode > 0


def test_one_that_cannot_be_timed_is_none(base: Config) -> None:
    assert paces([replace(base, train=replace(base.train, device="cuda:7"))], {}) == [None]


def test_a_dry_run_of_a_folder_has_a_time_and_a_cheaper_choice_and_makes_nothing(
    base: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "200")
    chosen = [f"data.root={base.data.root}", "encoder.depth=18", "encoder.width=64", "data.image_size=64"]
    assert run(SWEEP, ["--baseline", "folder", "--seeds", "1", "--dry-run", "--set", *chosen, "train.device=cpu"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("folder: proposed for 72 training images of ")
    assert "(by a few steps timed now, readouts not counted)" in said
    assert "cheaper: --set data.image_size=32 encoder.depth=8 encoder.width=16, about" in said
    assert not (tmp_path / "runs").exists()
