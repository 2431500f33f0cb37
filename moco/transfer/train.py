"""Fine-tuning: training views, the rate, the optimiser, the loop, and BatchNorm's statistics measured anew.

The loop yields its losses and prints nothing. All randomness is a function of (seed, step), so a resumed run needs no
generator state. Two parts of pre-training do not fit:

- `moco.optim.build_optimiser`: it decays all parameters alike, and its fused AdamW rounds otherwise in the last digits.
- `moco.batchnorm.measure_statistics`: it weighs batches, and a detector calls one norm more or less often in each.

H, W of an image, S side of a crop, B images of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import FrozenBatchNorm2d

from moco import checkpoint
from moco.config import Step as Steps
from moco.randomness import generator, seed_of
from moco.schedule import learning_rate
from moco.transfer.recipes import Recipe
from moco.transfer.samples import UNCOUNTED, Objects, Split, classes_of, objects_of
from moco.transfer.stages import TaskNetwork

NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)
WARM_FROM = 1e-3  # of the rate, at the first warm-up iteration
CHECKPOINT_EVERY, CHECKPOINT_SECONDS = 1000, 60.0  # iterations, or what an interrupt may cost

Batch = tuple[list[Tensor], list[Any]]  # uint8 images as they are, and of each its Objects, or its classes (S, S)


def flipped(image_3HW: Tensor, objects: Objects) -> tuple[Tensor, Objects]:
    """Left becomes right."""
    width = image_3HW.shape[-1]
    boxes_M4 = objects.boxes_M4[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1.0, -1.0, 1.0]) + torch.tensor(
        [width, 0.0, width, 0.0]
    )
    masks = None if objects.masks_MHW is None else objects.masks_MHW.flip(-1)
    return image_3HW.flip(-1), Objects(boxes_M4, objects.labels_M, objects.ignored_M, masks)


def detection_view(
    image_3HW: Tensor, objects: Objects, recipe: Recipe, random: torch.Generator
) -> tuple[Tensor, Objects]:
    """The sizes are drawn by the network's own transform."""
    flip = float(torch.rand((), generator=random)) < recipe.flip
    return flipped(image_3HW, objects) if flip else (image_3HW, objects)


def segmentation_view(
    image_3HW: Tensor, classes_HW: Tensor, recipe: Recipe, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Scaled by a factor drawn from `recipe.scales`, cropped to S x S, flipped. What lies beyond the image is not counted."""
    scale, flip, down, right = torch.rand(4, generator=random).tolist()
    image_3HW, classes_HW = scaled(
        image_3HW, classes_HW, recipe.scales[0] + scale * (recipe.scales[1] - recipe.scales[0])
    )
    height, width = classes_HW.shape
    side = recipe.crop
    top, left = int(down * (max(height - side, 0) + 1)), int(right * (max(width - side, 0) + 1))
    image_3SS = image_3HW[:, top : top + side, left : left + side]
    classes_SS = classes_HW[top : top + side, left : left + side]
    beyond = (0, side - image_3SS.shape[2], 0, side - image_3SS.shape[1])
    image_3SS, classes_SS = F.pad(image_3SS, beyond), F.pad(classes_SS, beyond, value=UNCOUNTED)
    return (image_3SS.flip(-1), classes_SS.flip(-1)) if flip < recipe.flip else (image_3SS, classes_SS)


def scaled(image_3HW: Tensor, classes_HW: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Images bilinearly, classes by the nearest."""
    if factor == 1.0:
        return image_3HW, classes_HW
    size = [max(1, round(side * factor)) for side in classes_HW.shape]
    resized = F.interpolate(image_3HW[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    nearest = F.interpolate(classes_HW[None, None].float(), size, mode="nearest-exact")
    return resized[0].round().clamp(0, 255).to(torch.uint8), nearest[0, 0].to(classes_HW.dtype)


@dataclass(frozen=True)
class Step:
    """After `number` iterations; the losses stay on the device until somebody reads them."""

    number: int
    lr: float
    losses: dict[str, Tensor]


class Batches(Dataset[Batch | ValueError]):
    """The batch of each step, as a loading process makes it.

    A ValueError about the data is returned: raised in a loading process it would arrive inside torch's traceback.
    """

    def __init__(self, split: Split, recipe: Recipe, seed: int) -> None:
        self.split, self.recipe, self.seed = split, recipe, seed

    def __getitem__(self, step: int) -> Batch | ValueError:
        rows = rows_of(step, len(self.split), self.recipe.batch, self.seed)
        try:
            views = [self._view(step, place, row) for place, row in enumerate(rows)]
        except ValueError as error:
            return error
        return [image for image, _ in views], [target for _, target in views]

    def _view(self, step: int, place: int, row: int) -> tuple[Tensor, Any]:
        sample, random = self.split[row], generator("cpu", self.seed, "transfer view", step, place)
        if self.recipe.task == "segmentation":
            classes_HW = classes_of(sample, self.split, row)
            return segmentation_view(sample.image_3HW, classes_HW, self.recipe, random)
        objects = objects_of(sample, self.split, row, masks=self.recipe.task == "instance")
        return detection_view(sample.image_3HW, objects, self.recipe, random)


def rows_of(step: int, images: int, batch: int, seed: int) -> list[int]:
    """The batch of a step: places step B to step B + B of one permutation of the images after the other."""
    places = range(step * batch, step * batch + batch)
    return [permutation(place // images, images, seed)[place % images] for place in places]


@lru_cache(maxsize=4)
def permutation(epoch: int, images: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(images, generator=generator("cpu", seed, "transfer order", epoch)).tolist()
    return order


def batches(split: Split, recipe: Recipe, seed: int, steps: range, workers: int) -> Iterator[Batch]:
    """Made by `workers` processes, or here if there are none. Raises ValueError for an image that cannot be used."""
    draw = generator("cpu", seed, "transfer loader")  # else the loader would take a number from the global one
    dataset = Batches(split, recipe, seed)
    for batch in DataLoader(dataset, batch_size=None, sampler=steps, num_workers=workers, generator=draw):
        if isinstance(batch, ValueError):
            raise batch
        yield batch


def rate(recipe: Recipe, step: int) -> float:
    """Of iteration `step`, from 0: linear from a thousandth, then a tenth at each drop (detectron2's WarmupMultiStepLR)."""
    warm = 1.0
    if step < recipe.warmup:
        warm = WARM_FROM + (1 - WARM_FROM) * step / recipe.warmup
    drops = Steps(milestones=tuple(round(share * recipe.iterations) for share in recipe.drops))
    return learning_rate(drops, recipe.lr * warm, step, steps_per_epoch=1, epochs=recipe.iterations)


def optimiser_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Norms' scales and shifts are not decayed."""
    norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    free = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in free if id(p) not in norms], "weight_decay": recipe.weight_decay},
        {"params": [p for p in free if id(p) in norms], "weight_decay": 0.0},
    ]
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9)


def losses_of(model: TaskNetwork, batch: Batch, *key: int | str) -> dict[str, Tensor]:
    """R-CNN draws regions and sizes from the global generators: they start from `key`, and are given back as they were."""
    device = next(model.parameters()).device
    images, targets = ([one.to(device) for one in part] for part in batch)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_of(*key))
        return model.losses(images, targets)


def fine_tune(
    model: TaskNetwork, split: Split, recipe: Recipe, seed: int, *, workers: int = 0, kept: Path | None = None
) -> Iterator[Step]:
    """Train in place. `kept`: the file of a checkpoint, written now and then; the same call goes on from it."""
    optimiser, first = optimiser_of(model, recipe), 0
    if kept is not None and kept.exists():
        state = checkpoint.load(kept, next(model.parameters()).device)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = int(state["step"])
    saved = time.monotonic()
    model.train()
    steps = range(first, recipe.iterations)
    for step, batch in zip(steps, batches(split, recipe, seed, steps, workers), strict=True):
        lr = rate(recipe, step)
        for group in optimiser.param_groups:
            group["lr"] = lr
        losses = losses_of(model, batch, seed, "transfer step", step)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        done = step + 1
        yield Step(done, lr, {name: loss.detach() for name, loss in losses.items()})
        late = time.monotonic() - saved >= CHECKPOINT_SECONDS
        if kept is not None and (late or done % CHECKPOINT_EVERY == 0 or done == recipe.iterations):
            kept.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.save({"step": done, "model": model.state_dict(), "optimiser": optimiser.state_dict()}, kept)
            saved = time.monotonic()


@torch.no_grad()
def measure_norms(model: TaskNetwork, split: Split, recipe: Recipe, seed: int, workers: int = 0) -> None:
    """BatchNorm's running statistics become the means over `recipe.measure_norms` fresh batches (precise BN)."""
    steps = range(recipe.iterations, recipe.iterations + recipe.measure_norms)
    with averaging(model):
        for count, batch in enumerate(batches(split, recipe, seed, steps, workers), start=1):
            losses_of(model, batch, seed, "transfer norms", count)


@contextmanager
def averaging(model: nn.Module) -> Iterator[None]:
    """Inside, every call of a BatchNorm weighs the same in its running statistics, however often a batch calls it.

    A call with no element (no region to draw a mask in) moves no statistics and is not counted.
    """
    norms = [module for module in model.modules() if isinstance(module, NORMS[0])]
    momenta, hooks = [norm.momentum for norm in norms], [norm.register_forward_pre_hook(_Share()) for norm in norms]
    try:
        yield
    finally:
        for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
            hook.remove()
            norm.momentum = momentum


class _Share:
    """Gives each call of one norm the momentum 1 / calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, norm: Any, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel():
            self.calls += 1
            norm.momentum = 1.0 / self.calls
