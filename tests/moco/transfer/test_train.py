"""Oracles: the authors' schedule by hand, permutations, bitwise repeats, a running mean written out, geometry twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco.config import ResNet
from moco.encoders import Encoder, build_encoder
from moco.model import seeded
from moco.randomness import generator
from moco.transfer import train as training
from moco.transfer.recipes import RECIPES, Recipe, recipe_for
from moco.transfer.samples import UNCOUNTED, Listed, Objects, Sample, tight_boxes
from moco.transfer.scenes import scenes
from moco.transfer.stages import TaskNetwork
from moco.transfer.tasks import Pixels, build_network, scores_of, transfer
from moco.transfer.train import (
    fine_tune,
    flipped,
    measure_norms,
    optimiser_of,
    rate,
    rows_of,
    scaled,
    segmentation_view,
)

CPU, PIXELS = torch.device("cpu"), Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TASKS = ("detection", "instance", "segmentation")


def encoder_of(seed: int = 0) -> Encoder:
    with seeded(seed, "encoder"):
        return build_encoder(ResNet(depth=8, stem="strided", width=8))


def short(task: str, **changes: object) -> Recipe:
    return replace(recipe_for(task, "scenes"), iterations=4, batch=2, warmup=1, **changes)  # type: ignore[arg-type]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_rates_are_those_of_the_authors_configs() -> None:
    voc, coco = RECIPES["voc_c4"](), RECIPES["coco_c4_2x"]()
    expected = {
        0: 2e-5,
        50: 0.02 * (0.001 * 0.5 + 0.5),
        100: 0.02,
        17_999: 0.02,
        18_000: 2e-3,
        21_999: 2e-3,
        22_000: 2e-4,
    }
    assert {step: rate(voc, step) for step in expected} == pytest.approx(expected)
    drops = {999: 0.02 * (0.001 * 0.001 + 0.999), 119_999: 0.02, 120_000: 2e-3, 159_999: 2e-3, 160_000: 2e-4}
    assert {step: rate(coco, step) for step in drops} == pytest.approx(drops)
    assert (voc.iterations, coco.iterations, RECIPES["coco_c4_1x"]().iterations) == (24_000, 180_000, 90_000)


def test_every_epoch_is_a_permutation_of_the_images() -> None:
    seen = [row for step in range(15) for row in rows_of(step, 10, 4, seed=3)]
    epochs = [seen[first : first + 10] for first in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_bits_and_a_resumed_run_too(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    recipe, train = short(task), scenes("train", 4)

    def fitted(stop_after: int, kept: Path | None = None) -> dict[str, Tensor]:
        model = build_network(encoder_of(), 10, recipe, PIXELS, seed=5)
        for step in fine_tune(model, train, recipe, 5, kept=kept):
            if step.number == stop_after:
                break
        return state_of(model)

    whole = fitted(4)
    assert equal(whole, fitted(4))
    fitted(3, tmp_path / "kept.pt")  # stopped after the third step: the checkpoint is of the second
    assert torch.load(tmp_path / "kept.pt", weights_only=True)["step"] == 2
    assert equal(whole, fitted(4, tmp_path / "kept.pt"))


def test_a_minute_of_slow_iterations_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Iterations of 25 s by the clock, checkpoints every 1000 of them: what is kept is at most 3 old."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    recipe, kept = replace(short("segmentation"), iterations=9), tmp_path / "kept.pt"
    model, saved = build_network(encoder_of(), 10, recipe, PIXELS, seed=5), []
    for step in fine_tune(model, scenes("train", 2), recipe, 5, kept=kept):
        saved.append(int(torch.load(kept, weights_only=True)["step"]) if kept.exists() else 0)
        clock[0] += 25.0
        if step.number == 8:
            break
    assert saved == [0, 0, 0, 3, 3, 3, 6, 6]


@pytest.mark.parametrize("task", TASKS)
def test_a_frozen_backbone_keeps_every_tensor_and_a_trained_one_changes_them(task: str) -> None:
    before = {name: tensor for name, tensor in encoder_of().backbone.state_dict().items() if "num_batches" not in name}
    for backbone in ("frozen", "trained"):
        recipe = short(task, backbone=backbone)
        model = build_network(encoder_of(), 10, recipe, PIXELS, seed=0)
        list(fine_tune(model, scenes("train", 2), recipe, 0))
        after = list(state_of(model).values())
        same = [any(t.shape == b.shape and torch.equal(t, b) for t in after) for b in before.values()]
        weights = [kept for kept, tensor in zip(same, before.values(), strict=True) if tensor.dim() == 4]
        assert all(same) if backbone == "frozen" else not any(weights)


def test_transfer_leaves_the_encoder_and_the_generators_as_they_were() -> None:
    encoder = encoder_of()
    before, random = state_of(encoder), torch.random.get_rng_state()
    lines: list[str] = []
    got = transfer(encoder, scenes("train", 2), scenes("test", 2), short("detection"), PIXELS, 0, CPU, lines.append)
    assert equal(before, state_of(encoder))
    assert torch.equal(random, torch.random.get_rng_state())
    assert {"box_ap", "box_ap50", "box_ap75", "box_ap/0", "box_ap/9"} <= got.keys()
    assert lines[-1].startswith("iteration 4/4")


def test_norms_are_not_decayed_and_all_else_is() -> None:
    model = build_network(encoder_of(), 10, short("detection"), PIXELS, seed=0)
    optimiser = optimiser_of(model, short("detection"))
    decayed, free = ({id(p) for p in group["params"]} for group in optimiser.param_groups)
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert [group["weight_decay"] for group in optimiser.param_groups] == [1e-4, 0.0]
    assert free == norms
    assert decayed == {id(p) for p in model.parameters()} - norms


def test_measured_norms_are_the_means_over_fresh_batches() -> None:
    """The first BatchNorm's mean, written out: of the first convolution of the normalised images."""
    recipe = replace(short("segmentation"), measure_norms=3)
    model, train = build_network(encoder_of(), 10, recipe, PIXELS, seed=0).train(), scenes("train", 6)
    conv, norm = model.get_submodule("stages.stem.0"), model.get_submodule("stages.stem.1")
    means = []
    for step in range(4, 7):
        images = torch.stack([train[row].image_3HW for row in rows_of(step, 6, 2, 0)])
        means.append(conv((images / 255 - 0.5) / 0.5).mean((0, 2, 3)))
    measure_norms(model, train, recipe, 0)
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), rtol=1e-5, atol=1e-6)


def test_a_norm_that_is_called_twice_a_batch_has_the_mean_of_all_its_calls() -> None:
    """Boxes and masks share a stage. A call without a region says nothing, and a norm that is never called stays."""

    class Twice(TaskNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.idle = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.seen: list[Tensor] = []

        def losses(self, images: Sequence[Tensor], targets: Sequence[Any]) -> dict[str, Tensor]:
            maps = torch.stack(list(images)) / 255
            for given in (maps, 3 * maps + 1, maps[:0]):
                self.norm(given)
                self.seen += [given] * bool(len(given))
            return {}

    model = Twice().train()
    model.idle.running_mean.fill_(7.0)
    measure_norms(model, scenes("train", 6), replace(short("segmentation"), measure_norms=3), 0)
    assert len(model.seen) == 6
    means = torch.stack([given.mean((0, 2, 3)) for given in model.seen])
    variances = torch.stack([given.transpose(0, 1).flatten(1).var(1) for given in model.seen])
    torch.testing.assert_close(model.norm.running_mean, means.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.norm.running_var, variances.mean(0), rtol=1e-5, atol=1e-6)
    assert model.idle.running_mean.tolist() == [7.0] * 3
    assert (model.norm.momentum, len(model.norm._forward_pre_hooks)) == (0.1, 0)


def test_a_detector_that_finds_what_is_there_scores_100() -> None:
    """The count's own way from a network's output to the score, in the geometry of the images."""

    class Oracle(TaskNetwork):
        def __init__(self, split: Listed) -> None:
            super().__init__()
            self.place, self.split = nn.Parameter(torch.zeros(())), iter(split.samples)

        def predict(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
            return [self.found(next(self.split).objects) for _ in images]

        @staticmethod
        def found(true: Objects | None) -> dict[str, Tensor]:
            assert true is not None
            assert true.masks_MHW is not None
            masks, scores = true.masks_MHW[:, None].float(), torch.ones(len(true))
            return {"boxes": true.boxes_M4, "labels": true.labels_M, "scores": scores, "masks": masks}

    test = scenes("test", 20)
    got = dict(scores_of(Oracle(test), test, recipe_for("instance", "scenes")))
    assert (got["box_ap"], got["mask_ap"]) == (pytest.approx(100.0), pytest.approx(100.0))


def test_a_flip_moves_boxes_with_masks_and_twice_is_nothing() -> None:
    sample = scenes("train", 3)[2]
    assert sample.objects is not None
    image, objects = flipped(sample.image_3HW, sample.objects)
    assert objects.masks_MHW is not None
    assert torch.equal(objects.boxes_M4, tight_boxes(objects.masks_MHW))
    back, again = flipped(image, objects)
    assert torch.equal(back, sample.image_3HW)
    assert torch.equal(again.boxes_M4, sample.objects.boxes_M4)


def test_crops_move_images_and_classes_together_and_count_nothing_beyond() -> None:
    """The image says the class of each pixel, so it must still do so after the crop."""
    draw = generator("cpu", "crops")
    classes_HW = torch.randint(0, 3, (20, 30), generator=draw)
    image_3HW = (classes_HW * 50 + 7).to(torch.uint8).expand(3, -1, -1)
    recipe = replace(recipe_for("segmentation", "scenes"), crop=24, flip=0.5)
    for number in range(20):
        image, classes = segmentation_view(image_3HW, classes_HW, recipe, generator("cpu", number))
        counted = classes != UNCOUNTED
        assert image.shape == (3, 24, 24)
        assert torch.equal(image[0].long()[counted], classes[counted] * 50 + 7)
        assert int(counted.sum()) == 20 * 24
    image, classes = scaled(image_3HW, classes_HW, 2.0)
    assert torch.equal(classes, classes_HW.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_splits_that_do_not_fit_are_refused() -> None:
    picture = torch.zeros(3, 16, 16, dtype=torch.uint8)
    nothing = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    wrong = Objects(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([3]), torch.tensor([False]))
    recipe, good = short("detection"), scenes("train", 2)

    def refused(train: Listed, test: Listed, words: str, of: Recipe = recipe) -> None:
        with pytest.raises(ValueError, match=words):
            transfer(encoder_of(), train, test, of, PIXELS, 0, CPU, print)

    refused(
        Listed("mine", ("a",), (Sample(picture, nothing),)), Listed("mine", ("a",), ()), "no box in its first 1 images"
    )
    refused(
        Listed("mine", ("a",), (Sample(picture),)), Listed("mine", ("a",), ()), "has no boxes; detection needs them"
    )
    refused(good, Listed("mine", ("a",), good.samples), "classes do not match, 10 and 1 of them; in one only: 0, 1, 2")
    labelled = Listed("mine", ("a", "b"), (Sample(picture, wrong),))
    refused(labelled, labelled, r"label 3 is none of its 2 classes \(labels 1 to 2\)")
    unmasked = Listed("mine", ("a", "b", "c"), (Sample(picture, wrong),))
    refused(unmasked, unmasked, "has no masks; choose --task detection", short("instance"))
    refused(unmasked, unmasked, "has no classes of pixels", short("segmentation"))
    refused(good, good, "loss is not finite; lower lr", short("segmentation", lr=1e30, optimiser="sgd"))
