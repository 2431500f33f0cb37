"""lightly's kNN and linear evaluation, as its own benchmarks call them.

B images, C classes, D features, N bank, S side.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

from lightly.utils.benchmarking import LinearClassifier, knn_predict
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from moco.config import Augment
from moco.data.catalog import evaluation_resize

Labels = tuple[Sequence[Image.Image], Sequence[int]]  # pictures and their classes

warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|lightly")


def predict(queries_QD: Tensor, bank_DN: Tensor, labels_N: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    ranked_QC: Tensor = knn_predict(queries_QD, bank_DN, labels_N, classes, knn_k=k, knn_t=temperature)
    return ranked_QC[:, 0]


class Pictures(Dataset[tuple[Tensor, int]]):
    """One image at a time through a transform."""

    def __init__(self, pictures: Sequence[Image.Image], labels: Sequence[int], transform: transforms.Compose) -> None:
        self.pictures, self.labels, self.transform = pictures, labels, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def loaders(train: Labels, validation: Labels, side: int, recipe: Augment, batch: int) -> list[DataLoader[Any]]:
    """As its `linear_eval.py`: crops of 8 to 100 % drawn anew in every epoch, the middle of the validation images."""
    end = [transforms.ToTensor(), transforms.Normalize(recipe.mean, recipe.std)]
    crops = transforms.Compose([transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip(), *end])
    middle = transforms.Compose([transforms.Resize(evaluation_resize(side)), transforms.CenterCrop(side), *end])
    return [
        DataLoader(Pictures(*train, crops), batch_size=batch, shuffle=True, drop_last=True),
        DataLoader(Pictures(*validation, middle), batch_size=batch),
    ]


def linear(
    backbone: nn.Module,
    train: Labels,
    validation: Labels,
    side: int,
    recipe: Augment,
    dim: int,
    classes: int,
    epochs: int,
    batch: int,
    lr: float,
) -> nn.Module:
    """The classification head after `epochs` of the recipe in its `linear_eval.py`, logging and checkpoints left out."""
    from pytorch_lightning import Trainer

    for name in ("pytorch_lightning", "lightning.pytorch", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    device = next(backbone.parameters()).device
    classifier = LinearClassifier(
        backbone, batch_size_per_device=batch, lr=lr, feature_dim=dim, num_classes=classes, topk=(1, min(5, classes))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        crops, middles = loaders(train, validation, side, recipe, batch)
        trainer.fit(classifier, crops, middles)
    head: nn.Module = classifier.classification_head
    return head.to(device)
