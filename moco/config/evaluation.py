"""How a representation is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moco.config.fields import require
from moco.config.text import typed_values


@dataclass(frozen=True)
@typed_values
class Evaluation:
    """Readouts. Everything is chosen on the validation split; the test split is only reported.

    kNN: weighted vote of the k nearest, weight exp(similarity / `knn_temperature`) (InstDisc, section 3.4).
    """

    knn_every: int = 10  # epochs between two kNN readouts on the validation split; 0: only at the end
    knn_features: Literal["encoder", "projection"] = "encoder"
    knn_temperature: float = 0.1
    linear_epochs: int = 100
    few_label_per_class: int = 5
    few_label_draws: int = 10  # independent labelled subsets, the same in every arm of a seed
    finetune: bool = False  # also fine-tune the encoder on a few labels, the same for every arm of a seed
    finetune_per_class: int = 10
    finetune_epochs: int = 50
    paper_protocol: bool = False  # also the papers' own probe: lr 30, no weight decay, 100 epochs, augmented crops

    def __post_init__(self) -> None:
        require(self.knn_every >= 0, f"evaluation.knn_every = {self.knn_every}: must be 0 or more")
        require(self.knn_temperature > 0, f"evaluation.knn_temperature = {self.knn_temperature}: must be above 0")
        require(self.linear_epochs >= 1, f"evaluation.linear_epochs = {self.linear_epochs}: must be at least 1")
        require(
            self.few_label_per_class >= 1,
            f"evaluation.few_label_per_class = {self.few_label_per_class}: must be at least 1",
        )
        for name in ("finetune_per_class", "finetune_epochs"):
            require(getattr(self, name) >= 1, f"evaluation.{name} = {getattr(self, name)}: must be at least 1")
        require(self.few_label_draws >= 1, f"evaluation.few_label_draws = {self.few_label_draws}: must be at least 1")
