"""Oracles: cases by hand, average precision written out once more, scikit-learn's Jaccard."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score
from torchvision.ops import box_iou

from moco.randomness import generator
from moco.transfer.detector import Found
from moco.transfer.samples import UNCOUNTED, Objects
from moco.transfer.scores import AveragePrecision, Confusion, require_counting

BOX, FAR = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 70.0, 70.0]


def objects(boxes: list[list[float]], labels: list[int], ignored: list[bool] | None = None) -> Objects:
    flags = torch.tensor(ignored or [False] * len(labels), dtype=torch.bool)
    return Objects(torch.tensor(boxes).view(-1, 4), torch.tensor(labels, dtype=torch.int64), flags)


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Found:
    return {
        "boxes": torch.tensor(boxes).view(-1, 4),
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def scores(
    pairs: list[tuple[Found, Objects]], classes: tuple[str, ...] = ("a",), *, crowds: bool = True
) -> dict[str, float | None]:
    counts = AveragePrecision(classes, masks=False, crowds=crowds)
    for one, target in pairs:
        counts.add([one], [target])
    return dict(counts.scores())


def test_a_wrong_one_between_two_right_ones() -> None:
    """Precision 1 up to recall 0.5 (51 of the 101 points), 2/3 beyond."""
    got = scores([(found([BOX, [30, 30, 40, 40], FAR], [0.9, 0.8, 0.7], [1, 1, 1]), objects([BOX, FAR], [1, 1]))])
    expected = 100 * (51 + 50 * 2 / 3) / 101
    assert [got[name] for name in ("box_ap", "box_ap50", "box_ap75")] == pytest.approx([expected] * 3)


def test_an_overlap_of_62_percent_counts_at_three_of_ten_thresholds() -> None:
    got = scores([(found([[0, 0, 10, 6.2]], [0.9], [1]), objects([BOX], [1]))])
    assert (got["box_ap"], got["box_ap50"], got["box_ap75"]) == (pytest.approx(30.0), pytest.approx(100.0), 0.0)


def test_what_is_ignored_is_neither_found_nor_missed() -> None:
    got = scores([(found([BOX, FAR], [0.5, 0.9], [1, 1]), objects([BOX, FAR], [1, 1], [False, True]))])
    assert got["box_ap"] == pytest.approx(100.0)
    assert scores([(found([], [], []), objects([FAR], [1], [True]))])["box_ap"] is None


def test_a_difficult_object_takes_no_more_than_what_overlaps_it_and_a_crowd_all_that_lies_in_it() -> None:
    """A small box inside a large one that is ignored, IoU 0.01: wrong beside a difficult object, precision 1/2 at all recalls.

    Two boxes on the object itself are looked past, in both.
    """
    large, inside = [50.0, 50.0, 150.0, 150.0], [60.0, 60.0, 70.0, 70.0]
    target = objects([BOX, large], [1, 1], [False, True])
    for boxes, expected in (
        ([BOX, inside], {True: 100.0, False: 50.0}),
        ([BOX, large, large], {True: 100.0, False: 100.0}),
    ):
        one = found(boxes, [0.5, 0.9, 0.8][: len(boxes)], [1] * len(boxes))
        assert {crowds: scores([(one, target)], crowds=crowds)["box_ap"] for crowds in expected} == pytest.approx(
            expected
        )


def test_a_class_that_no_image_has_is_missing_not_zero() -> None:
    got = scores([(found([BOX], [0.9], [1]), objects([BOX], [1]))], ("a", "b"))
    assert (got["box_ap/a"], got["box_ap/b"], got["box_ap"]) == (pytest.approx(100.0), None, pytest.approx(100.0))


def test_masks_are_counted_by_their_pixels() -> None:
    """The same box, 62 of 100 pixels."""
    mask_1HW = torch.zeros(1, 20, 20, dtype=torch.uint8)
    mask_1HW[0, :10, :10] = 1
    part_11HW = torch.zeros(1, 1, 20, 20)
    part_11HW[0, 0, :6, :10] = 0.9
    part_11HW[0, 0, 6, :2] = 0.5
    part_11HW[0, 0, 7, :] = 0.49
    counts = AveragePrecision(("a",), masks=True)
    target = Objects(torch.tensor([BOX]), torch.tensor([1]), torch.tensor([False]), mask_1HW)
    counts.add([found([BOX], [0.9], [1]) | {"masks": part_11HW}], [target])
    got = dict(counts.scores())
    assert (got["box_ap"], got["mask_ap"], got["mask_ap50"]) == (
        pytest.approx(100.0),
        pytest.approx(30.0),
        pytest.approx(100.0),
    )


def slow_ap(pairs: list[tuple[Found, Objects]], label: int, threshold: float) -> float:
    """Greedy by score, each object once; precision made monotone, looked at in 101 points of recall.

    What finds nothing that counts, but overlaps something difficult, is as if it had not been found.
    """
    ranked = sorted(
        (
            (float(s), image, box)
            for image, (one, _) in enumerate(pairs)
            for s, box, own in zip(one["scores"], one["boxes"], one["labels"], strict=True)
            if own == label
        ),
        key=lambda entry: -entry[0],
    )
    own = {image: target.take(target.labels_M == label) for image, (_, target) in enumerate(pairs)}
    wanted = {image: target.boxes_M4[~target.ignored_M] for image, target in own.items()}
    difficult = {image: target.boxes_M4[target.ignored_M] for image, target in own.items()}
    total, taken, right = sum(map(len, wanted.values())), set[tuple[int, int]](), []
    for _, image, box in ranked:
        overlaps = box_iou(box[None], wanted[image])[0].tolist() if len(wanted[image]) else []
        free = [(iou, place) for place, iou in enumerate(overlaps) if iou >= threshold and (image, place) not in taken]
        if free:
            taken.add((image, max(free)[1]))
        if free or not bool((box_iou(box[None], difficult[image]) >= threshold).any()):
            right.append(bool(free))
    recall = np.cumsum(right) / total
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(np.mean([max(precision[recall >= point], default=0.0) for point in np.linspace(0, 1, 101)]))


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_random_boxes_have_the_average_precision_that_is_written_out(share: float) -> None:
    """`share` of the objects is difficult."""
    draw = generator("cpu", "random boxes")

    def boxes(count: int) -> list[list[float]]:
        corner, size = torch.rand(count, 2, generator=draw) * 30, 8 + torch.rand(count, 2, generator=draw) * 12
        return torch.cat([corner, corner + size], 1).tolist()

    pairs = []
    for _ in range(12):
        target = boxes(4)
        guesses = (torch.tensor(target) + torch.randn(4, 4, generator=draw) * 1.5).tolist() + boxes(6)
        labels = [1, 2, 1, 2]
        more = torch.randint(1, 3, (6,), generator=draw).tolist()
        ignored = (torch.rand(4, generator=draw) < share).tolist()
        one = found(guesses, torch.rand(10, generator=draw).tolist(), labels + more)
        pairs.append((one, objects(target, labels, ignored)))
    got = scores(pairs, ("a", "b"), crowds=False)
    table = [[slow_ap(pairs, label, 0.5 + 0.05 * step) for step in range(10)] for label in (1, 2)]
    assert got["box_ap/a"] == pytest.approx(100 * np.mean(table[0]), abs=1e-6)
    assert got["box_ap"] == pytest.approx(100 * np.mean(table), abs=1e-6)
    assert got["box_ap50"] == pytest.approx(100 * np.mean([row[0] for row in table]), abs=1e-6)
    assert got["box_ap75"] == pytest.approx(100 * np.mean([row[5] for row in table]), abs=1e-6)


def test_intersection_over_union_is_that_of_scikit_learn() -> None:
    draw = generator("cpu", "pixels")
    counts, all_true, all_predicted = Confusion(("a", "b", "c", "d")), [], []
    for side in (7, 12):
        true_HW = torch.randint(0, 4, (side, side), generator=draw)  # nothing is "d"
        predicted_HW = torch.where(torch.rand(side, side, generator=draw) < 0.6, true_HW, true_HW.roll(1))
        true_HW[:2] = UNCOUNTED
        counts.add([predicted_HW], [true_HW])
        all_true.append(true_HW[2:].flatten())
        all_predicted.append(predicted_HW[2:].flatten())
    true_N, predicted_N = torch.cat(all_true).numpy(), torch.cat(all_predicted).numpy()
    got = dict(counts.scores())
    by_class = jaccard_score(true_N, predicted_N, average=None, labels=range(4))
    assert [got[f"iou/{name}"] for name in ("background", "a", "b", "c")] == pytest.approx(list(100 * by_class))
    assert got["iou/d"] is None
    assert got["miou"] == pytest.approx(100 * by_class.mean())
    assert got["pixel_accuracy"] == pytest.approx(100 * accuracy_score(true_N, predicted_N))


def test_nothing_counted_is_missing() -> None:
    counts = Confusion(("a",))
    counts.add([torch.zeros(2, 2)], [torch.full((2, 2), UNCOUNTED)])
    assert set(dict(counts.scores()).values()) == {None}


def test_without_pycocotools_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "pycocotools", raising=False)
    with pytest.raises(
        ValueError, match=r"pycocotools is not installed: .*pip install 'moco-ablation-suite\[transfer\]'"
    ):
        require_counting()
