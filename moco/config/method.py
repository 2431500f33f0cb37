"""What is contrasted with what: the key encoder, the negatives, the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from moco.config.fields import added, require, require_share
from moco.config.kinds import Group
from moco.config.text import typed_values

# Where negatives come from.


@dataclass(frozen=True)
class Negatives(Group):
    """A source of negatives. What it computes is a `moco.negatives.Source`, registered with `@source(KIND)`."""

    @property
    def stored(self) -> int:
        """Embeddings of earlier steps that serve as negatives; 0 where a batch is all there is."""
        return 0

    def check(self, loss: InfoNCE) -> None:
        """Raises ValueError for a loss that these negatives cannot serve."""


@dataclass(frozen=True)
@typed_values
class Queue(Negatives):
    """The last `size` keys, a ring that any batch size may enter (K in the papers). A symmetric loss has one per view.

    `shared`: one for both directions of a symmetric loss, which the keys of the first view enter, then those of the second
    (the authors' CIFAR notebook): a step renews twice as much of it.
    """

    size: int = 65_536
    shared: bool = added(False, before=False)

    def __post_init__(self) -> None:
        require(self.size >= 1, f"negatives.size = {self.size}: the queue must hold at least 1 key")

    def check(self, loss: InfoNCE) -> None:
        require(
            loss.symmetric or not self.shared,
            "negatives.shared = True and loss.symmetric = False: one direction has one queue anyway; "
            "set loss.symmetric=true or negatives.shared=false",
        )

    @property
    def stored(self) -> int:
        return self.size


@dataclass(frozen=True)
class InBatch(Negatives):
    """The keys of the other images of the batch, over all GPUs (end-to-end, v3)."""


@dataclass(frozen=True)
class BothViews(Negatives):
    """Both views of the other images of the batch: 2B - 1 candidates (SimCLR, arXiv:2002.05709, eq. 1; SupCon)."""

    def check(self, loss: InfoNCE) -> None:
        require(
            loss.symmetric,
            "loss.symmetric = False and negatives = bothviews: both views are queries there; set loss.symmetric=true",
        )


@dataclass(frozen=True)
@typed_values
class MemoryBank(Negatives):
    """One stored embedding per training image; `size` of them are drawn as negatives at each step (K), the image's own is
    the positive. A stored one moves by v <- m v + (1 - m) q, of unit length (InstDisc, arXiv:1805.01978, section 3)."""

    size: int = 4096
    momentum: float = 0.5

    def __post_init__(self) -> None:
        require(self.size >= 1, f"negatives.size = {self.size}: must be at least 1 stored embedding")
        require_share("negatives.momentum", self.momentum)

    @property
    def stored(self) -> int:
        return self.size

    def check(self, loss: InfoNCE) -> None:
        require(
            not loss.symmetric,
            "loss.symmetric = True and negatives = memorybank: the stored embedding is the key, there is one view; "
            "set loss.symmetric=false",
        )
        require(
            loss.positives != "label",
            "loss.positives = label and negatives = memorybank: the bank holds one positive per image; "
            "choose loss.positives=own",
        )


# Where keys come from, and which negatives go with them.


@dataclass(frozen=True)
class KeyEncoder(Group):
    """What makes the keys. The step that it takes is a `moco.model.Contrast`, registered with `@contrast(KIND)`.

    `reason`: why only negatives that go with it can be chosen, and none else.
    """

    reason: ClassVar[str] = "these are the negatives that it makes keys for"


@dataclass(frozen=True)
@typed_values
class Momentum(KeyEncoder):
    """Key encoder = moving average of the query encoder's parameters: theta_k <- m theta_k + (1 - m) theta_q (v1, eq. 2).

    `ramp_to` moves m from `momentum` to that value by half a cosine, step by step (v2+, v3). `shuffle` permutes the keys'
    batch before BatchNorm and undoes it after (ShuffleBN); it needs split BatchNorm. `shuffle_apart` draws a permutation for
    each direction of a symmetric loss (the authors' CIFAR notebook); else both have the same.
    """

    momentum: float = 0.999
    ramp_to: float | None = None
    shuffle: bool = True
    shuffle_apart: bool = added(False, before=False)

    goes_with = (Queue, InBatch)
    reason = "a momentum encoder makes keys for a queue or for its batch"

    def __post_init__(self) -> None:
        require_share("key_encoder.momentum", self.momentum)
        if self.ramp_to is not None:
            require_share("key_encoder.ramp_to", self.ramp_to)
        require(
            self.shuffle or not self.shuffle_apart,
            "key_encoder.shuffle_apart = True and key_encoder.shuffle = False: nothing is permuted; set one as the other",
        )


@dataclass(frozen=True)
@typed_values
class Shared(KeyEncoder):
    """Keys come from the query encoder itself and gradients flow through both (end-to-end, SimCLR, SupCon)."""

    shuffle: bool = False

    goes_with = (InBatch, BothViews)
    reason = "keys that carry gradients live for one step"


@dataclass(frozen=True)
class Absent(KeyEncoder, Negatives):
    """This part is not there: no key encoder, no negatives, no predictor."""

    goes_with = (MemoryBank,)
    reason = "without a key encoder the negatives are stored embeddings"


@dataclass(frozen=True)
@typed_values
class InfoNCE:
    """Softmax cross entropy over cosine similarities divided by `temperature` (v1, eq. 1), mean over queries.

    `positives` own: the query's own image; label: every candidate of its class (SupCon, arXiv:2004.11362, section 3.2).
    `several`: what several positives are. outside: the mean of their losses (SupCon, eq. 2, L_out); inside: the sum of their
    shares, one logarithm (eq. 3, L_in, without its 1 / |P|; solo-learn's SupCon).
    `symmetric`: both views are queries in turn, and the mean or the sum of the two `directions` counts (the CIFAR notebook
    sums). `factor` multiplies the loss by factor x temperature: 4 in v3, which sums two directions of 2T each.
    """

    temperature: float = 0.07
    positives: Literal["own", "label"] = "own"
    symmetric: bool = False
    factor: float | None = None
    directions: Literal["mean", "sum"] = added("mean", before="mean")
    several: Literal["outside", "inside"] = added("outside", before="outside")

    def __post_init__(self) -> None:
        require(self.temperature > 0.0, f"loss.temperature = {self.temperature}: must be above 0")
        require(
            self.symmetric or self.directions == "mean",
            f"loss.directions = {self.directions} and loss.symmetric = False: there is one direction; "
            "set loss.symmetric=true or loss.directions=mean",
        )
        require(
            self.positives == "label" or self.several == "outside",
            f"loss.several = {self.several} and loss.positives = {self.positives}: there is one positive; "
            "set loss.positives=label or loss.several=outside",
        )
        require(self.factor is None or self.factor > 0.0, f"loss.factor = {self.factor}: must be above 0, or none")


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross entropy over the classes of the labelled training images, of one view: supervised from scratch."""


# The networks: encoders, projection heads, predictors.


@dataclass(frozen=True)
@typed_values
class ResNet:
    """Residual network. Depth 8 is a narrow three-block net for small images; the others are torchvision's.

    `groups` and `width_per_group` are torchvision's: ResNeXt-50 32x4d is depth 50, 32 groups of 4; Wide ResNet-50-2 is
    depth 50, 1 group of 128. `batch_norm_splits` G > 1 normalises G equal parts of the batch apart, as G GPUs would
    (SplitBatchNorm); 1 normalises the whole batch together, also over several GPUs (SyncBN). `batch_norm_parts`: which rows
    are a part. contiguous: neighbours, as several GPUs have them; interleaved: every G-th (the authors' CIFAR notebook).

    `stem`: imagenet is 7 x 7 and pooling; the others are 3 x 3: small, strided (halves the side once), padded (a border of
    two pixels, solo-learn's: the side grows by two). `stem_init`: he is torchvision's normal of its ResNet, over the outputs;
    torch the uniform that a new Conv2d has, which code that replaces the first convolution trains with (the notebook,
    solo-learn): for 3 x 3 its standard deviation is 1 / 9, not 1 / 17.
    """

    depth: Literal[8, 18, 34, 50, 101, 152] = 50
    stem: Literal["imagenet", "small", "strided", "padded"] = "imagenet"
    width: int = 64  # channels of the first stage
    groups: int = 1
    width_per_group: int = 64
    zero_init_residual: bool = False  # the last BatchNorm of each block starts at 0 (v3)
    batch_norm_splits: int = 1
    batch_norm_parts: Literal["contiguous", "interleaved"] = added("contiguous", before="contiguous")
    stem_init: Literal["he", "torch"] = added("he", before="he")

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
@typed_values
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
@typed_values
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
@typed_values
class Predictor:
    """An MLP on the queries alone, `head.dim` to `head.dim`, hidden layers with BatchNorm (v3, section 3)."""

    hidden: tuple[int, ...] = (4096,)
    last_norm: bool = False

    def __post_init__(self) -> None:
        require(
            all(w >= 1 for w in self.hidden) and len(self.hidden) >= 1,
            f"predictor.hidden = {self.hidden}: needs one width or more, each at least 1; predictor=absent is none",
        )
