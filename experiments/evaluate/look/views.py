"""Two augmented views of a few images, as training makes them: to be looked at before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moco.config import Absent, Config, Momentum, Train

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.evaluate.look.sprite import Sprite

IMAGES = 8


@dataclass(frozen=True)
class ViewRow:
    """Numbers in the sprite, one for each image. `arms`: those that share this augmentation and image size."""

    arms: tuple[str, ...]
    originals: tuple[int, ...]
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    second: str  # what the second view is called: of a method that looks at one view there is none


def view_rows(arms: Mapping[str, Config], sprite: Sprite, count: int = IMAGES) -> list[ViewRow]:
    """A row of pictures for each augmentation that differs. Raises ValueError for a set with fewer images than `count`."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for arm, config in arms.items():
        alike.setdefault((config.augment, config.data, config.train.seed), []).append(arm)
    return [_row(tuple(names), arms[names[0]], sprite, count) for names in alike.values()]


def _row(arms: tuple[str, ...], config: Config, sprite: Sprite, count: int) -> ViewRow:
    import torch

    from experiments.evaluate.add import images
    from moco.data.loader import Batches

    split = images(config.data).pretrain
    batch = next(iter(Batches(split, _of_a_few(config, count), torch.device("cpu")).epoch(0)))
    originals_u8 = split.images.take(batch.indices_B)
    keys_B3SS = batch.key_view_B3SS
    assert keys_B3SS is not None
    return ViewRow(
        arms,
        tuple(map(sprite.add, originals_u8)),
        tuple(map(sprite.add, as_pictures(batch.query_view_B3SS, config))),
        tuple(map(sprite.add, as_pictures(keys_B3SS, config))),
        "not looked at by this method" if isinstance(config.key_encoder, Absent) else "key view",
    )


def _of_a_few(config: Config, count: int) -> Config:
    """Its images and augmentation in batches of `count`, with a network that makes no demand on the batch."""
    return Config(
        data=replace(config.data, workers=0),
        augment=config.augment,
        key_encoder=Momentum(shuffle=False),
        train=Train(batch_size=count, seed=config.train.seed),
    )


def as_pictures(views_B3SS: Tensor, config: Config) -> Tensor:
    """uint8 (B, 3, S, S): normalised views as they look."""
    import torch

    mean_311, std_311 = torch.tensor([config.augment.mean, config.augment.std])[:, :, None, None]
    pictures_B3SS: Tensor = ((views_B3SS * std_311 + mean_311) * 255).round().clamp(0, 255).to(torch.uint8)
    return pictures_B3SS
