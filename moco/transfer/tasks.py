"""The readouts of an encoder by one recipe: build the network, fine-tune it, score it on the held-out split.

Nothing is chosen here; the held-out split is read once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moco.encoders import Encoder
from moco.model import seeded
from moco.transfer.detector import Detector
from moco.transfer.recipes import Recipe
from moco.transfer.samples import Split, check_boxes, classes_of, objects_of
from moco.transfer.scores import AveragePrecision, Confusion, Score
from moco.transfer.segmenter import Segmenter
from moco.transfer.stages import TaskNetwork, frozen_norms, stages_of
from moco.transfer.train import Step, fine_tune, measure_norms

BLOCK = 8  # images that a network is asked about at once; more only fill the memory
REPORTS = 10  # lines about the progress of a run


@dataclass(frozen=True)
class Pixels:
    """How the encoder saw its images: (x / 255 - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def build_network(encoder: Encoder, classes: int, recipe: Recipe, pixels: Pixels, seed: int) -> TaskNetwork:
    """The network of the task; new layers are drawn from the seed. Raises ValueError for an encoder without maps.

    A frozen backbone keeps every one of its tensors; frozen norms keep theirs.
    """
    stages = stages_of(encoder)
    if recipe.batch_norm == "frozen" or recipe.backbone == "frozen":
        frozen_norms(stages)
    if recipe.backbone == "frozen":
        stages.requires_grad_(False)
    kind = Segmenter if recipe.task == "segmentation" else Detector
    with seeded(seed, "transfer"):
        return kind(stages, classes, recipe, pixels.mean, pixels.std)


def transfer(
    encoder: Encoder,
    train: Split,
    test: Split,
    recipe: Recipe,
    pixels: Pixels,
    seed: int,
    device: torch.device,
    report: Callable[[str], None],
    *,
    workers: int = 0,
    kept: Path | None = None,
) -> dict[str, float | None]:
    """Readouts on `test` in percent, after fine-tuning on `train`; `encoder` stays as it is. `report` takes lines of progress.

    Raises ValueError for splits that do not fit the task or each other, an encoder without maps, a loss that is not finite.
    """
    check_splits(train, test, recipe)
    model = build_network(encoder, len(train.classes), recipe, pixels, seed).to(device)
    began, every = time.monotonic(), max(1, recipe.iterations // REPORTS)
    for step in fine_tune(model, train, recipe, seed, workers=workers, kept=kept):
        if step.number % every == 0 or step.number == recipe.iterations:
            report(progress(step, recipe, time.monotonic() - began))
    if recipe.measure_norms:
        measure_norms(model, train, recipe, seed, workers)
    return dict(scores_of(model, test, recipe))


def check_splits(train: Split, test: Split, recipe: Recipe) -> None:
    if train.classes != test.classes:
        raise ValueError(
            f"{train.name} and {test.name}: their classes do not match, {_differing(train.classes, test.classes)}"
        )
    for split in (train, test):
        if not len(split):
            raise ValueError(f"{split.name}: holds no image")
        if recipe.task != "segmentation":
            check_boxes(split)


def _differing(ours: Sequence[str], theirs: Sequence[str]) -> str:
    only = [name for name in (*ours, *theirs) if (name in ours) != (name in theirs)]
    return f"{len(ours)} and {len(theirs)} of them" + (f"; in one only: {', '.join(only[:5])}" if only else "")


def progress(step: Step, recipe: Recipe, seconds: float) -> str:
    """Raises ValueError for a loss that is not finite: nothing good comes after it."""
    losses = {name: float(loss) for name, loss in step.losses.items()}
    if not all(math.isfinite(loss) for loss in losses.values()):
        raise ValueError(f"iteration {step.number}: the loss is not finite; lower lr (it is {recipe.lr:g})")
    parts = ", ".join(f"{name.removeprefix('loss_')} {loss:.3f}" for name, loss in losses.items())
    return f"iteration {step.number}/{recipe.iterations}, {seconds:.0f} s, lr {step.lr:.2g}: {parts}"


@torch.no_grad()
def scores_of(model: TaskNetwork, split: Split, recipe: Recipe) -> Iterator[Score]:
    """Readouts of a fine-tuned network on a split."""
    model.eval()
    pixels, masks = recipe.task == "segmentation", recipe.task == "instance"
    counts: AveragePrecision | Confusion = Confusion(split.classes)
    if not pixels:
        counts = AveragePrecision(split.classes, masks=masks, crowds=recipe.data != "voc")
    device = next(model.parameters()).device
    for first in range(0, len(split), BLOCK):
        samples = [(split[row], split, row) for row in range(first, min(first + BLOCK, len(split)))]
        targets: list[Any] = [classes_of(*s) if pixels else objects_of(*s, masks=masks) for s in samples]
        counts.add(model.predict([sample.image_3HW.to(device) for sample, _, _ in samples]), targets)
    yield from counts.scores()
