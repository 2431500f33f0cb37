"""lightly's kNN and linear evaluation, as its own benchmarks call them.

B images, C classes, D features, N bank, S side.
"""

from __future__ import annotations

import logging
import warnings

import torch
from lightly.utils.benchmarking import LinearClassifier, knn_predict
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|lightly")


def predict(queries_QD: Tensor, bank_DN: Tensor, labels_N: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    ranked_QC: Tensor = knn_predict(queries_QD, bank_DN, labels_N, classes, knn_k=k, knn_t=temperature)
    return ranked_QC[:, 0]


def linear(
    backbone: nn.Module, images_BCSS: Tensor, labels_B: Tensor, dim: int, classes: int, epochs: int, batch: int, lr: float,
) -> nn.Module:  # fmt: skip
    """The classification head after `epochs` of images through the frozen backbone, without their validation passes."""
    from pytorch_lightning import Trainer

    for name in ("pytorch_lightning", "lightning.pytorch", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    classifier = LinearClassifier(
        backbone, batch_size_per_device=batch, lr=lr, feature_dim=dim, num_classes=classes, topk=(1, min(5, classes))
    )
    loader = DataLoader(TensorDataset(images_BCSS, labels_B), batch_size=batch, shuffle=True)
    accelerator = "gpu" if next(backbone.parameters()).is_cuda else "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_epochs=epochs, accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(classifier, loader)
    head: nn.Module = classifier.classification_head
    return head.to(labels_B.device if not images_BCSS.is_cuda else torch.device("cuda"))
