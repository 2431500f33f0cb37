"""What a record and a table are of: data, architecture, sweep. Oracles: torchvision, a changed pixel, sums by hand."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from experiments.__main__ import main
from experiments.evaluate.transfer import verb
from experiments.evaluate.transfer.run import record_of, run_recorded, splits_of
from experiments.evaluate.transfer.spec import Job, changed
from experiments.store import schema
from moco.config import Data, ResNet
from moco.encoders import Encoder, build_encoder
from moco.model import seeded
from moco.transfer import scenes as drawn
from moco.transfer import tasks, train
from moco.transfer.recipes import recipe_for
from tests.experiments.evaluate.test_transfer_cli import SHORT, finished, recorded, small
from tests.moco.transfer.test_folders import coco, voc
from tests.support.analysis_runs import manifest, write_manifest


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path))
    monkeypatch.setattr(drawn, "COUNTS", {"train": 4, "validation": 2, "test": 2})
    drawn.scenes.cache_clear()
    splits_of.cache_clear()
    yield tmp_path
    drawn.scenes.cache_clear()
    splits_of.cache_clear()


def test_the_untrained_network_of_a_file_is_one_of_its_own_architecture(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ResNet-18 of torchvision under a baseline that has another encoder."""
    network, seen = resnet18(weights=None), list[Encoder]()
    torch.save(network.state_dict(), runs / "resnet18.pt")
    real = tasks.transfer

    def noting(encoder: Encoder, *rest: Any, **options: Any) -> dict[str, float | None]:
        seen.append(encoder)
        return real(encoder, *rest, **options)

    monkeypatch.setattr(tasks, "transfer", noting)
    arguments = ["--baseline", "digits", "--task", "segmentation", *SHORT, "measure_norms=0", "--device", "cpu"]
    assert main(["transfer", str(runs / "resnet18.pt"), *arguments, "--random-init"]) == 0
    body = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("fc."))
    assert [sum(p.numel() for p in encoder.parameters()) for encoder in seen] == [body, body]
    with seeded(0, "encoder"):
        expected = build_encoder(ResNet(depth=18))
    trained, fresh = ([*encoder.parameters()] for encoder in seen)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(fresh, expected.parameters(), strict=True))
    assert torch.equal(trained[0], network.conv1.weight)
    assert not torch.equal(trained[0], fresh[0])


def test_the_same_arm_of_two_sweeps_is_two_rows_and_no_sweeps_table(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, cells = Job(recipe_for("segmentation", "scenes")), dict[str, list[schema.Cell]]()
    for label, side, value in (("one@digits", 8, 30.0), ("two@digits", 24, 50.0)):
        cells[label] = []
        for arm, more in (("m=0.99", 0), (schema.RANDOM_INIT, 4)):
            for seed in (0, 1):
                config = replace(small(seed), data=Data(name="digits", image_size=side + more))
                scores: dict[str, float | None] = {"miou": value + seed - more, "pixel_accuracy": None}
                run_id = recorded(runs, config, job, scores)
                cells[label].append({"arm": arm, "seed": seed, "run_id": run_id, "config": {}})
        planned = manifest({"m=0.99": [0, 1], schema.RANDOM_INIT: [0, 1]}, label=label, name=label.partition("@")[0])
        write_manifest(runs, {**planned, "cells": cells[label]})
    assert main(["transfer", "one", "--task", "segmentation"]) == 0
    whole = capsys.readouterr().out
    (table,) = (runs / "transfer").glob("*.md")
    assert f"table: {table}" in whole
    assert "| m=0.99      | 2/2 | 30.5 ± 0.7 [24.1, 36.9] |" in table.read_text()
    before = {path: path.read_bytes() for path in (runs / "transfer").iterdir()}
    assert main(["transfer", "m=0.99", "--task", "segmentation"]) == 0
    said = capsys.readouterr().out
    assert "| m=0.99 (one@digits) | 2/2 | 30.5 ± 0.7 [24.1, 36.9] |" in said
    assert "| m=0.99 (two@digits) | 2/2 | 50.5 ± 0.7 [44.1, 56.9] |" in said
    assert "table:" not in said
    assert {path: path.read_bytes() for path in (runs / "transfer").iterdir()} == before


def on_voc(root: Path) -> Job:
    """Opened anew, as in a new process."""
    splits_of.cache_clear()
    return Job(changed(recipe_for("segmentation", "voc"), [*SHORT[1:], "crop=33", "measure_norms=0"]), root=str(root))


def repaint(root: Path) -> None:
    """Another class for one pixel of the test image; no name and no count is another."""
    path = root / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "2007_2.png"
    with Image.open(path) as image:
        classes_HW, palette = np.array(image), image.getpalette()
    classes_HW[15, 15] = 3
    painted = Image.fromarray(classes_HW).convert("P")
    painted.putdata(classes_HW.flatten().tolist())
    painted.putpalette(palette or [])
    painted.save(path)


def test_a_record_is_of_the_data_it_was_made_on_wherever_they_lie(runs: Path) -> None:
    run, root = finished(runs, small()), voc(runs / "data")
    scores = run_recorded(run, on_voc(root), lambda line: None)
    moved = Path(shutil.copytree(root, runs / "moved"))
    lines: list[str] = []
    assert run_recorded(run, on_voc(moved), lines.append) == scores
    assert lines == []
    repaint(moved)
    assert record_of(run, on_voc(moved)) is None
    assert record_of(run, on_voc(root)) is not None
    run_recorded(run, on_voc(moved), lines.append)
    assert [line.partition(",")[0] for line in lines] == ["iteration 1/2", "iteration 2/2"]
    assert record_of(run, on_voc(moved)) is not None
    assert record_of(run, on_voc(root)) is None


def test_a_half_finished_checkpoint_is_taken_up_on_the_same_data_only(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 1)
    run, root = finished(runs, small()), voc(runs / "data")
    other = Path(shutil.copytree(root, runs / "other"))
    repaint(other)

    def stop(line: str) -> None:
        if line.startswith("iteration 2/2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recorded(run, on_voc(root), stop)
    first: dict[Path, str] = {}
    for place in (other, root):
        lines: list[str] = []
        run_recorded(run, on_voc(place), lines.append)
        first[place] = lines[0].partition(",")[0]
    assert first == {other: "iteration 1/2", root: "iteration 2/2"}
    assert not list((run / "transfer").glob("*.pt"))


def test_a_listing_of_coco_with_another_box_is_other_data(tmp_path: Path) -> None:
    def fingerprints() -> list[str | None]:
        splits_of.cache_clear()
        return [split.fingerprint for split in splits_of(Job(recipe_for("detection", "coco"), root=str(tmp_path)))]

    coco(tmp_path)
    before = fingerprints()
    assert fingerprints() == before
    listing = tmp_path / "annotations" / "instances_val2017.json"
    listing.write_text(listing.read_text().replace("[4, 6, 20, 10]", "[4, 6, 20, 11]"))
    after = fingerprints()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_annotations_that_are_missing_are_named_before_anything_is_trained(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, root = finished(runs, small()), voc(runs / "data")
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt"
    lists.write_text(lists.read_text() + "2007_9\n")
    splits_of.cache_clear()
    assert main(["transfer", str(run), "--task", "segmentation", "--data", "voc", "--root", str(root), *SHORT]) == 2
    said = capsys.readouterr().err
    assert "2007_9.jpg: not there, though" in said
    assert said.count("\n") == 1
    assert not (run / "transfer").exists()


@pytest.fixture
def listening() -> Iterator[None]:
    """The tests themselves may run where a shell has SIGINT ignored, in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("of", ["run", "file"])
def test_ctrl_c_is_one_line_and_130(
    of: str, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(runs, small())
    target = run if of == "run" else run / schema.ENCODER
    monkeypatch.setattr(verb, "say", lambda line: signal.raise_signal(signal.SIGINT))
    assert main(["transfer", str(target), "--task", "segmentation", *SHORT]) == 130
    said = capsys.readouterr()
    assert said.err.startswith("interrupted: ")
    assert (said.err.count("\n"), said.out) == (1, "")


def test_several_processes_are_refused(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    assert main(["transfer", str(finished(runs, small())), "--task", "segmentation", *SHORT]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: WORLD_SIZE=4: transfer is one process")
    assert said.count("\n") == 1
