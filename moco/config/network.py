"""The networks: encoders, projection heads, predictors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moco.config.checked import require


@dataclass(frozen=True)
class ResNet:
    """Residual network. Depth 8 is a narrow three-block net for small images; the others are torchvision's.

    `groups` and `width_per_group` are torchvision's: ResNeXt-50 32x4d is depth 50, 32 groups of 4; Wide ResNet-50-2 is
    depth 50, 1 group of 128. `batch_norm_splits` G > 1 normalises G equal parts of the batch apart, as G GPUs would
    (SplitBatchNorm); 1 normalises the whole batch together, also over several GPUs (SyncBN).
    """

    depth: Literal[8, 18, 34, 50, 101, 152] = 50
    stem: Literal["imagenet", "small", "strided"] = "imagenet"
    width: int = 64  # channels of the first stage
    groups: int = 1
    width_per_group: int = 64
    zero_init_residual: bool = False  # the last BatchNorm of each block starts at 0 (v3)
    batch_norm_splits: int = 1

    def __post_init__(self) -> None:
        require(
            self.width == 64 or self.depth == 8,
            f"encoder.width = {self.width}: only depth 8 has a free width, depth {self.depth} has 64",
        )
        require(self.width >= 1, f"encoder.width = {self.width}: must be at least 1")
        require(
            (self.groups, self.width_per_group) == (1, 64) or self.depth >= 50,
            f"encoder.groups = {self.groups} and encoder.width_per_group = {self.width_per_group}: "
            f"depth {self.depth} has no bottlenecks to group or widen; choose depth 50, 101 or 152",
        )
        require(
            self.groups >= 1 and self.width_per_group >= 1,
            f"encoder.groups = {self.groups}, encoder.width_per_group = {self.width_per_group}: must be at least 1",
        )
        require(
            self.batch_norm_splits >= 1, f"encoder.batch_norm_splits = {self.batch_norm_splits}: must be at least 1"
        )


@dataclass(frozen=True)
class ViT:
    """Vision transformer as MoCo v3 trains it (arXiv:2104.02057, section 4; tiny 192/12/3, small 384/12/12, base 768/12/12,
    large 1024/24/16).

    `freeze_patch_projection` keeps the random patch projection as it is (v3, section 4.2, against spikes). `conv` replaces
    it by four stride-2 convolutions and takes one block away (Xiao et al., arXiv:2106.14881).
    """

    width: int = 384
    depth: int = 12
    heads: int = 12
    patch: int = 16  # pixels
    stem: Literal["patch", "conv"] = "patch"
    position: Literal["sincos", "learned", "none"] = "sincos"
    pool: Literal["cls", "mean"] = "cls"
    freeze_patch_projection: bool = True

    batch_norm_splits = 1  # no BatchNorm inside; not a field

    def __post_init__(self) -> None:
        require(
            self.heads >= 1 and self.width % self.heads == 0,
            f"encoder.width = {self.width} and encoder.heads = {self.heads}: the width must divide among the heads",
        )
        require(
            self.position != "sincos" or self.width % 4 == 0,
            f"encoder.width = {self.width}: sin-cos positions need a multiple of 4",
        )
        if self.stem == "conv":
            self._check_stem()
        require(self.depth >= 1, f"encoder.depth = {self.depth}: must be at least 1")
        require(self.patch >= 1, f"encoder.patch = {self.patch}: must be at least 1 pixel")

    def _check_stem(self) -> None:
        require(
            self.patch in (2, 4, 8, 16),
            f"encoder.patch = {self.patch}: the conv stem halves the side once per convolution; choose 2, 4, 8 or 16",
        )
        require(
            self.width % (self.patch // 2) == 0,
            f"encoder.width = {self.width}: the conv stem doubles its channels up to it; must divide by {self.patch // 2}",
        )
        require(
            self.depth >= 2, f"encoder.depth = {self.depth}: the conv stem takes one block away; must be at least 2"
        )
        require(
            not self.freeze_patch_projection,
            "encoder.freeze_patch_projection = True and encoder.stem = conv: only the patch projection can stay frozen; "
            "set encoder.freeze_patch_projection=false",
        )


@dataclass(frozen=True)
class Head:
    """Projection head: Linear-ReLU for each entry of `hidden`, then Linear to `dim`. No hidden layer is v1's linear head.

    0 in `hidden` stands for the width of the encoder's features (v2: 2048 for ResNet-50). `norm` puts a BatchNorm between
    each hidden Linear (then without bias) and its ReLU; `last_norm` ends with one without scale and shift (v3).
    BatchNorm of heads is over the whole batch, also over several GPUs.
    """

    hidden: tuple[int, ...] = ()
    dim: int = 128
    norm: bool = False
    last_norm: bool = False

    def __post_init__(self) -> None:
        require(
            all(w >= 0 for w in self.hidden), f"head.hidden = {self.hidden}: widths must be 0 (as the features) or more"
        )
        require(self.dim >= 2, f"head.dim = {self.dim}: must be at least 2")


@dataclass(frozen=True)
class Classifier:
    """One Linear layer to the classes of the data set: supervised training from scratch."""


@dataclass(frozen=True)
class Predictor:
    """An MLP on the queries alone, `head.dim` to `head.dim`, hidden layers with BatchNorm (v3, section 3)."""

    hidden: tuple[int, ...] = (4096,)
    last_norm: bool = False

    def __post_init__(self) -> None:
        require(
            all(w >= 1 for w in self.hidden) and len(self.hidden) >= 1,
            f"predictor.hidden = {self.hidden}: needs one width or more, each at least 1; predictor=absent is none",
        )
