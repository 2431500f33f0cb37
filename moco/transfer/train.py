"""The fine-tuning loop: it yields, the caller prints. All randomness is a function of (seed, step).

B images of a batch, N of a split.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import FrozenBatchNorm2d

from moco import checkpoint
from moco.randomness import generator, seed_of
from moco.transfer.recipes import Recipe
from moco.transfer.samples import UNCOUNTED, Objects, Split, classes_of, objects_of

# Training views of images with their targets: flips, and for segmentation a random scale and crop.
#
# H, W of an image, S side of a crop.


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


NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)
WARM_FROM = 1e-3  # of the rate, at the first warm-up iteration
CHECKPOINT_EVERY, CHECKPOINT_SECONDS = 1000, 60.0  # iterations, or what an interrupt may cost


class Learner(Protocol):
    """What is fitted: an nn.Module with these."""

    def losses(self, images: Sequence[Tensor], targets: Sequence[Any]) -> dict[str, Tensor]: ...

    def predict(self, images: Sequence[Tensor]) -> list[Any]: ...


@dataclass(frozen=True)
class Step:
    """After `number` iterations; the losses stay on the device until somebody reads them."""

    number: int
    lr: float
    losses: dict[str, Tensor]


class Views(Dataset[tuple[Tensor, Any] | ValueError]):
    """Training views by (step, place in the batch): what a loading process makes.

    Of an image that cannot be used, the error: it is sent as a value, for torch would put a traceback around it.
    """

    def __init__(self, split: Split, recipe: Recipe, seed: int) -> None:
        self.split, self.recipe, self.seed = split, recipe, seed

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Any] | ValueError:
        try:
            return self._view(*key)
        except ValueError as error:
            return ValueError(str(error))

    def _view(self, step: int, place: int, row: int) -> tuple[Tensor, Any]:
        sample, random = self.split[row], generator("cpu", self.seed, "transfer view", step, place)
        if self.recipe.task == "segmentation":
            classes_HW = classes_of(sample, self.split, row)
            return segmentation_view(sample.image_3HW, classes_HW, self.recipe, random)
        objects = objects_of(sample, self.split, row, masks=self.recipe.task == "instance")
        return detection_view(sample.image_3HW, objects, self.recipe, random)


@dataclass(frozen=True)
class Order:
    """The batches from step `first` on, as keys of `Views`; made when they are asked for."""

    images: int
    recipe: Recipe
    seed: int
    first: int

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for step in range(self.first, self.recipe.iterations):
            rows = rows_of(step, self.images, self.recipe.batch, self.seed)
            yield [(step, place, row) for place, row in enumerate(rows)]

    def __len__(self) -> int:
        return self.recipe.iterations - self.first


def rows_of(step: int, images: int, batch: int, seed: int) -> list[int]:
    """The batch of a step: places step B to step B + B of one permutation of the images after the other."""
    places = range(step * batch, step * batch + batch)
    return [permutation(place // images, images, seed)[place % images] for place in places]


@lru_cache(maxsize=4)
def permutation(epoch: int, images: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(images, generator=generator("cpu", seed, "transfer order", epoch)).tolist()
    return order


def batches(split: Split, recipe: Recipe, seed: int, first: int, workers: int) -> DataLoader[Any]:
    order, views = Order(len(split), recipe, seed, first), Views(split, recipe, seed)
    draw = generator("cpu", seed, "transfer loader")  # else it would take a number from the global one
    return DataLoader(views, batch_sampler=order, num_workers=workers, collate_fn=_as_lists, generator=draw)


def read(loader: Iterable[tuple[list[Tensor], list[Any]] | ValueError]) -> Iterator[tuple[list[Tensor], list[Any]]]:
    """The batches; raises the ValueError that a loading process has sent in place of one."""
    for batch in loader:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


def _as_lists(pairs: list[tuple[Tensor, Any] | ValueError]) -> tuple[list[Tensor], list[Any]] | ValueError:
    views = []
    for pair in pairs:
        if isinstance(pair, ValueError):
            return pair
        views.append(pair)
    return [image for image, _ in views], [target for _, target in views]


def rate(recipe: Recipe, step: int) -> float:
    """Of iteration `step`, from 0: linear from a thousandth, then a tenth at each drop (detectron2's WarmupMultiStepLR)."""
    warm = 1.0
    if step < recipe.warmup:
        warm = WARM_FROM + (1 - WARM_FROM) * step / recipe.warmup
    dropped = sum(step >= round(share * recipe.iterations) for share in recipe.drops)
    return recipe.lr * warm * 0.1**dropped


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


@contextmanager
def step_randomness(device: torch.device, *key: int | str) -> Iterator[None]:
    """R-CNN draws regions and sizes from the global generators: they are a step's own, and given back as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(*key))
        yield


def fit(
    model: nn.Module, split: Split, recipe: Recipe, seed: int, *, workers: int = 0, kept: Path | None = None
) -> Iterator[Step]:
    """Train in place. With `kept`, a checkpoint is left there now and then, and the same call goes on from it."""
    device = next(model.parameters()).device
    optimiser = optimiser_of(model, recipe)
    first, saved = _restore(model, optimiser, kept, device), time.monotonic()
    model.train()
    for step, (images, targets) in enumerate(read(batches(split, recipe, seed, first, workers)), start=first):
        lr = rate(recipe, step)
        for group in optimiser.param_groups:
            group["lr"] = lr
        with step_randomness(device, seed, "transfer step", step):
            losses = model.losses([i.to(device) for i in images], [_to(t, device) for t in targets])  # type: ignore[operator]
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        yield Step(step + 1, lr, {name: loss.detach() for name, loss in losses.items()})
        late = time.monotonic() - saved >= CHECKPOINT_SECONDS
        if kept is not None and (late or (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == recipe.iterations):
            _keep(model, optimiser, step + 1, kept)
            saved = time.monotonic()


def _to(target: Objects | Tensor, device: torch.device) -> Objects | Tensor:
    if isinstance(target, Tensor):
        return target.to(device)
    masks = None if target.masks_MHW is None else target.masks_MHW.to(device)
    return Objects(target.boxes_M4.to(device), target.labels_M.to(device), target.ignored_M.to(device), masks)


def _keep(model: nn.Module, optimiser: torch.optim.Optimizer, step: int, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save({"step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict()}, kept)


def _restore(model: nn.Module, optimiser: torch.optim.Optimizer, kept: Path | None, device: torch.device) -> int:
    """The step to go on from."""
    if kept is None or not kept.exists():
        return 0
    state = checkpoint.load(kept, device)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


@torch.no_grad()
def measure_norms(model: nn.Module, split: Split, recipe: Recipe, seed: int, workers: int = 0) -> None:
    """BatchNorm's running statistics become the means over `recipe.measure_norms` fresh batches (precise BN)."""
    device, first = next(model.parameters()).device, recipe.iterations
    more = replace(recipe, iterations=first + recipe.measure_norms)
    with averaging(model):
        for count, (images, targets) in enumerate(read(batches(split, more, seed, first, workers)), start=1):
            with step_randomness(device, seed, "transfer norms", count):
                model.losses([i.to(device) for i in images], [_to(t, device) for t in targets])  # type: ignore[operator]


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
