"""What is contrasted with what: the key encoder, the negatives, the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moco.config.checked import require, require_share


@dataclass(frozen=True)
class Absent:
    """This part is not there: no key encoder, no negatives, no predictor."""


@dataclass(frozen=True)
class Momentum:
    """Key encoder = moving average of the query encoder's parameters: theta_k <- m theta_k + (1 - m) theta_q (v1, eq. 2).

    `ramp_to` moves m from `momentum` to that value by half a cosine, step by step (v2+, v3). `shuffle` permutes the keys'
    batch before BatchNorm and undoes it after (ShuffleBN); it needs split BatchNorm.
    """

    momentum: float = 0.999
    ramp_to: float | None = None
    shuffle: bool = True

    def __post_init__(self) -> None:
        require_share("key_encoder.momentum", self.momentum)
        if self.ramp_to is not None:
            require_share("key_encoder.ramp_to", self.ramp_to)


@dataclass(frozen=True)
class Shared:
    """Keys come from the query encoder itself and gradients flow through both (end-to-end, SimCLR, SupCon)."""

    shuffle: bool = False


@dataclass(frozen=True)
class Queue:
    """The last `size` keys, a ring that any batch size may enter (K in the papers). A symmetric loss has one per view."""

    size: int = 65_536

    def __post_init__(self) -> None:
        require(self.size >= 1, f"negatives.size = {self.size}: the queue must hold at least 1 key")


@dataclass(frozen=True)
class InBatch:
    """The keys of the other images of the batch, over all GPUs (end-to-end, v3)."""


@dataclass(frozen=True)
class BothViews:
    """Both views of the other images of the batch: 2B - 1 candidates (SimCLR, arXiv:2002.05709, eq. 1; SupCon)."""


@dataclass(frozen=True)
class MemoryBank:
    """One stored embedding per training image; `size` of them are drawn as negatives at each step (K), the image's own is
    the positive. A stored one moves by v <- m v + (1 - m) q, of unit length (InstDisc, arXiv:1805.01978, section 3)."""

    size: int = 4096
    momentum: float = 0.5

    def __post_init__(self) -> None:
        require(self.size >= 1, f"negatives.size = {self.size}: must be at least 1 stored embedding")
        require_share("negatives.momentum", self.momentum)


@dataclass(frozen=True)
class InfoNCE:
    """Softmax cross entropy over cosine similarities divided by `temperature` (v1, eq. 1), mean over queries.

    `positives` own: the query's own image; label: every candidate of its class (SupCon, arXiv:2004.11362, L_out).
    `symmetric`: both views are queries in turn and the mean of the two losses counts. `factor` multiplies the loss by
    factor x temperature: 4 in v3, which sums two directions of 2T each.
    """

    temperature: float = 0.07
    positives: Literal["own", "label"] = "own"
    symmetric: bool = False
    factor: float | None = None

    def __post_init__(self) -> None:
        require(self.temperature > 0.0, f"loss.temperature = {self.temperature}: must be above 0")
        require(self.factor is None or self.factor > 0.0, f"loss.factor = {self.factor}: must be above 0, or none")


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross entropy over the classes of the labelled training images, of one view: supervised from scratch."""
