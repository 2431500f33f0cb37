"""`folder` looks at its images first. Oracles: numbers written out; the run ids of configs that were written out in full."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from experiments.plan.baselines import folder, for_images
from experiments.plan.configs import create
from experiments.plan.overrides import apply
from experiments.plan.proposal import Start, of_fixed, settings, start
from experiments.plan.registry import baseline_config
from experiments.plan.sweep import check_sizes, plan
from experiments.store import schema
from experiments.store.run import RunDirectory
from moco.config import SGD, Config, Head, InfoNCE, Queue, ResNet
from moco.config.plain import run_id
from moco.data.catalog import Look, known_by_names, look_at, resolve
from sweeps.temperature import SWEEP
from tests.support.data_files import break_file, picture, write_folder

FULL = ["negatives.size=32", "train.batch_size=16"]  # fields that a small folder needs


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_folder(tmp_path / "set", per_class=40)


# images, median side, GPU -> encoder depth and width, image size, K, batch, epochs, learning rate
PROPOSED = {
    (4_050, 32, False): (8, 16, 32, 256, 64, 40, 0.06),
    (45_000, 32, False): (8, 16, 32, 4_096, 64, 10, 0.06),
    (4_860, 180, False): (8, 16, 64, 512, 64, 33, 0.06),
    (400, 500, False): (8, 16, 64, 32, 64, 400, 0.06),
    (72, 28, False): (8, 16, 32, 16, 16, 400, 0.015),
    (45_000, 32, True): (18, 64, 32, 4_096, 256, 200, 0.03),
    (4_050, 100, True): (18, 64, 96, 256, 256, 400, 0.03),
    (1_153_050, 400, True): (18, 64, 128, 65_536, 256, 10, 0.03),
}


@pytest.mark.parametrize("given", PROPOSED)
def test_what_is_proposed(given: tuple[int, int, bool]) -> None:
    images, side, gpu = given
    config = for_images(Look(images, side, 1), gpu)
    encoder, optim = config.part(ResNet), config.part(SGD)
    found = (encoder.depth, encoder.width, config.data.image_size, config.part(Queue).size)
    assert (*found, config.train.batch_size, config.train.epochs, optim.lr) == PROPOSED[given]
    assert config.part(Head).hidden == ()
    assert config.part(InfoNCE).temperature == 0.07
    assert config.augment == folder().augment  # v2's views, as before


def test_without_images_it_is_what_it_was() -> None:
    """Also the identity in tests/fixtures/identities.json."""
    assert run_id(folder()) == "640d0fa7f0795962"
    assert start("folder", [], gpu=False) == Start(folder(), folder())
    assert start("digits", ["train.epochs=3"], gpu=True).line is None
    assert start("folder", ["data.name=digits"], gpu=False).line is None


def test_the_look_counts_and_takes_the_median(root: Path) -> None:
    """80 images in train/, 8 of them held out; widths and heights are those that `write_folder` writes.

    Broken files and files that are no images do not count; a file that is cut off has its size in its head.
    """
    sides = sorted(2 * [min(40 + 7 * (i % 5), 30 + 11 * (i % 3)) for i in range(40)])
    data = apply(folder(), [f"data.root={root}"]).data
    assert look_at(data) == Look(72, sides[39], 80)
    break_file(next((root / "train" / "cat").glob("*.png")), "text")
    break_file(next((root / "train" / "dog").glob("*.png")), "truncated")
    assert look_at(data).opened == 79
    for file in (root / "train").rglob("*.*"):
        break_file(file, "empty")
    with pytest.raises(ValueError, match=f"{root}/train: none of its first 80 files is an image"):
        look_at(data)


def test_a_large_folder_is_sampled_evenly(tmp_path: Path) -> None:
    """90 small pictures of a class and 180 large ones of another: the median is of the large ones."""
    for name, side, count in (("a", 20, 90), ("b", 50, 180)):
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (side, 2 * side)).save(tmp_path / "train" / name / f"{number}.bmp")
        picture(1).save(tmp_path / "val" / name / "0.png")
    assert look_at(apply(folder(), [f"data.root={tmp_path}"]).data) == Look(243, 50, 200)


def test_the_line_says_what_set_can_change_and_set_wins(root: Path) -> None:
    given = [f"data.root={root}", "train.epochs=7", "encoder.depth=18", "encoder.width=64"]
    begun = start("folder", given, gpu=False)
    assert begun.line is not None
    assert begun.line.startswith("folder: proposed for 72 training images of ")
    assert "train.epochs" not in begun.line
    assert "encoder.depth" not in begun.line
    assert begun.base == apply(for_images(look_at(begun.base.data), False), given)
    said = begun.line.partition("on a CPU: ")[2].partition("; --set")[0].split()
    assert apply(baseline_config("folder"), [*said, *given]) == begun.base, "the line is what --set would have to say"


def typed(words: str) -> list[str]:
    """The words of a command as a shell passes them on. Oracle: sh itself."""
    command = ["sh", "-c", f"printf '%s\\n' {words}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_what_is_said_to_set_can_be_typed() -> None:
    """A head without hidden layers is an empty tuple."""
    ours, theirs = apply(folder(), ["head.hidden=", "augment.crop_scale=0.3,0.9"]), folder()
    said = settings(ours, theirs)
    assert said == ["augment.crop_scale=0.3,0.9", "head.hidden="]
    assert apply(theirs, typed(" ".join(said))) == ours


def test_the_device_decides_unless_it_is_said(root: Path) -> None:
    there = start("folder", [f"data.root={root}"], gpu=True).base
    here = start("folder", [f"data.root={root}", "train.device=cpu"], gpu=True).base
    assert (there.part(ResNet).depth, here.part(ResNet).depth) == (18, 8)


def test_a_proposal_can_be_planned(root: Path) -> None:
    base = start("folder", [f"data.root={root}"], gpu=False).base
    base = replace(base, data=resolve(base.data))
    check_sizes("base", base)
    assert plan(SWEEP, base, base_name="folder").arms


def test_who_says_everything_has_the_identity_and_the_label_of_before(root: Path) -> None:
    fixed = apply(folder(), [f"data.root={root}", *FULL])
    said = settings(fixed, start("folder", [f"data.root={root}"], gpu=False).base)
    begun = start("folder", [f"data.root={root}", *said], gpu=False)
    assert run_id(begun.base) == run_id(fixed)
    made = [plan(SWEEP, base, base_name="folder", preset=folder(), seeds=1) for base in (begun.base, fixed)]
    assert made[0].label == made[1].label
    assert [cell.run_id for cell in made[0].cells()] == [cell.run_id for cell in made[1].cells()]


@pytest.mark.parametrize("by_names", [True, False])
def test_finished_runs_of_before_are_named_with_the_settings_that_make_them(
    by_names: bool, root: Path, tmp_path: Path
) -> None:
    """Oracle: the settings that are said give the very run ids."""
    given, runs = [f"data.root={root}", *FULL], tmp_path / "runs"
    begun = start("folder", given, gpu=False)
    fixed = apply(folder(), given)
    data = resolve(fixed.data)
    old = replace(fixed, data=known_by_names(data) if by_names else data)

    def run_ids(base: Config) -> list[str]:
        return [run_id(replace(base, data=resolve(base.data)))]

    assert of_fixed(begun, data.fingerprint, run_ids, runs) is None
    run = RunDirectory(runs / run_id(old))
    create(run, old)
    assert of_fixed(begun, data.fingerprint, run_ids, runs) is None, "it has not finished"
    (run.path / schema.RESULTS).write_text("{}")
    said = of_fixed(begun, data.fingerprint, run_ids, runs)
    assert said is not None
    assert said.startswith(
        "1 finished run of this baseline as it was before it looked at the images does not count here; "
    )
    assert said.endswith(" is what it was made with")
    to_set = typed(said.partition("--set ")[2].partition(" is what it was")[0])
    again = start("folder", [*given, *to_set], gpu=False).base
    assert run_id(replace(again, data=resolve(again.data))) == run.run_id
