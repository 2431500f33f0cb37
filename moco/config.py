"""What a run is: a tree of frozen values, one group per part of the method. Imports no torch, so a login node plans fast.

A published method is a value of `Config` (see `moco.methods`); an arm of an ablation is a `dataclasses.replace` of it.
Fields marked `cosmetic(...)` (workers, paths, cadence of logs, device) do not change the result and stay out of a run's
identity. Every group checks its own ranges when it is built; `Config` checks the mixes. All errors are `ValueError`s
that name the value, what is allowed and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA_VERSION = 1  # part of every run's identity: raise it when the same config starts to mean another computation


def cosmetic(default: Any) -> Any:
    """A field that does not change the result: left out of the run's identity."""
    return field(default=default, metadata={"cosmetic": True})


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_share(name: str, value: float) -> None:
    require(0.0 <= value <= 1.0, f"{name} = {value}: must be between 0 and 1")


@dataclass(frozen=True)
class Data:
    """The images. `image_size` is the side in pixels of what the encoder sees."""

    name: str = "digits"
    image_size: int = 32
    validation_share: float = 0.1  # of the training images, held out, stratified by class; used for every choice
    stream: bool = False  # False: all images in memory as uint8; True: read and crop from disk every time
    max_corrupt: int = 10  # unreadable files that are skipped by name before the run is refused
    fingerprint: str = ""  # of a folder's listing; filled in when the config is resolved
    root: str | None = cosmetic(None)  # folder of `name=folder`, or where downloads are kept
    download: bool = cosmetic(True)
    workers: int = cosmetic(0)  # processes that read images; only for stream=True

    def __post_init__(self) -> None:
        require(self.image_size >= 8, f"data.image_size = {self.image_size}: must be at least 8 pixels")
        require(
            0.0 < self.validation_share <= 0.5,
            f"data.validation_share = {self.validation_share}: must be above 0 and at most 0.5 "
            "(the validation images are held out of train, for choosing anything)",
        )
        require(self.max_corrupt >= 0, f"data.max_corrupt = {self.max_corrupt}: must be 0 or more")
        require(self.workers >= 0, f"data.workers = {self.workers}: must be 0 or more")


@dataclass(frozen=True)
class Augment:
    """One view's recipe. Order: crop, [jitter, grey | grey, jitter], blur, solarize, flip, rotate, noise, normalise.

    Ranges follow torchvision's reference transforms (`RandomResizedCrop`, `ColorJitter`, `RandomGrayscale`, ...).
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)  # share of the image's area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    grey: float = 0.2  # probability
    grey_first: bool = True  # v1 greys before the jitter, v2 after it
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.4)  # brightness, contrast, saturation, hue
    jitter_probability: float = 1.0
    blur: float = 0.0  # probability
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    solarize: float = 0.0  # probability; threshold 128 of 255
    flip: float = 0.5  # probability, horizontal
    rotation: float = 0.0  # degrees, uniform in +- this
    noise: float = 0.0  # standard deviation of added Gaussian noise, of a pixel in 0..1
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("grey", "jitter_probability", "blur", "solarize", "flip"):
            require_share(f"augment.{name}", getattr(self, name))
        low, high = self.crop_scale
        require(0.0 < low <= high <= 1.0, f"augment.crop_scale = {self.crop_scale}: must be 0 < low <= high <= 1")
        low, high = self.crop_ratio
        require(0.0 < low <= high, f"augment.crop_ratio = {self.crop_ratio}: must be 0 < low <= high")
        low, high = self.blur_sigma
        require(0.0 < low <= high, f"augment.blur_sigma = {self.blur_sigma}: must be 0 < low <= high")
        require(
            min(self.jitter) >= 0.0 and self.jitter[3] <= 0.5,
            f"augment.jitter = {self.jitter}: strengths must be 0 or more, the last (hue) at most 0.5",
        )
        require(self.rotation >= 0.0, f"augment.rotation = {self.rotation}: degrees, must be 0 or more")
        require(self.noise >= 0.0, f"augment.noise = {self.noise}: must be 0 or more")
        require(min(self.std) > 0.0, f"augment.std = {self.std}: must be above 0")


@dataclass(frozen=True)
class ResNet:
    """Residual network. Depth 8 is a narrow three-block net for small images; the others are torchvision's.

    `batch_norm_splits` G > 1 normalises G equal parts of the batch apart, as G GPUs would (SplitBatchNorm).
    """

    depth: Literal[8, 18, 34, 50, 101, 152] = 50
    stem: Literal["imagenet", "small", "strided"] = "imagenet"
    width: int = 64  # channels of the first stage
    batch_norm_splits: int = 1

    def __post_init__(self) -> None:
        require(
            self.width == 64 or self.depth == 8,
            f"encoder.width = {self.width}: only depth 8 has a free width, depth {self.depth} has 64",
        )
        require(self.width >= 1, f"encoder.width = {self.width}: must be at least 1")
        require(
            self.batch_norm_splits >= 1, f"encoder.batch_norm_splits = {self.batch_norm_splits}: must be at least 1"
        )


@dataclass(frozen=True)
class Head:
    """Projection head: Linear-ReLU for each entry of `hidden`, then Linear to `dim`. No hidden layer is v1's linear head.

    0 in `hidden` stands for the width of the encoder's features (v2: 2048 for ResNet-50).
    """

    hidden: tuple[int, ...] = ()
    dim: int = 128

    def __post_init__(self) -> None:
        require(
            all(w >= 0 for w in self.hidden), f"head.hidden = {self.hidden}: widths must be 0 (as the features) or more"
        )
        require(self.dim >= 2, f"head.dim = {self.dim}: must be at least 2")


@dataclass(frozen=True)
class Momentum:
    """Key encoder = moving average of the query encoder's parameters: theta_k <- m theta_k + (1 - m) theta_q (v1, eq. 2).

    `shuffle` permutes the keys' batch before BatchNorm and undoes it after (ShuffleBN); it needs split BatchNorm.
    """

    momentum: float = 0.999
    shuffle: bool = True

    def __post_init__(self) -> None:
        require_share("key_encoder.momentum", self.momentum)


@dataclass(frozen=True)
class Queue:
    """The last `size` keys, a ring that any batch size may enter (K in the papers)."""

    size: int = 65_536

    def __post_init__(self) -> None:
        require(self.size >= 1, f"negatives.size = {self.size}: the queue must hold at least 1 key")


@dataclass(frozen=True)
class InfoNCE:
    """Softmax cross entropy over cosine similarities divided by `temperature` (v1, eq. 1)."""

    temperature: float = 0.07

    def __post_init__(self) -> None:
        require(self.temperature > 0.0, f"loss.temperature = {self.temperature}: must be above 0")


@dataclass(frozen=True)
class Step:
    """lr x `factor` at each epoch of `milestones`."""

    milestones: tuple[int, ...] = (120, 160)
    factor: float = 0.1
    warmup_epochs: float = 0.0


@dataclass(frozen=True)
class Cosine:
    """lr x (1 + cos(pi epoch / epochs)) / 2. `first_epoch` 1 repeats the CIFAR notebook, whose epochs count from one."""

    warmup_epochs: float = 0.0
    per_step: bool = False  # fractional epochs, as v3; else the lr is constant within an epoch, as v1 and v2
    first_epoch: int = 0


Schedule = Step | Cosine


def _check_rates(lr: float, weight_decay: float, schedule: Schedule) -> None:
    require(lr > 0.0, f"optim.lr = {lr}: must be above 0")
    require(weight_decay >= 0.0, f"optim.weight_decay = {weight_decay}: must be 0 or more")
    require(
        schedule.warmup_epochs >= 0.0, f"optim.schedule.warmup_epochs = {schedule.warmup_epochs}: must be 0 or more"
    )


@dataclass(frozen=True)
class SGD:
    """SGD with momentum; weight decay on all parameters, as the authors'."""

    lr: float = 0.03
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: Schedule = Step()

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.weight_decay, self.schedule)
        require(0.0 <= self.momentum < 1.0, f"optim.momentum = {self.momentum}: must be at least 0 and below 1")


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter); weight decay on all parameters."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = Cosine()

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.weight_decay, self.schedule)


@dataclass(frozen=True)
class Train:
    """`epochs` 0 is the random-initialisation row: BatchNorm statistics are measured, no weight moves."""

    epochs: int = 200
    batch_size: int = 256
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = cosmetic(True)
    device: str = cosmetic("auto")  # auto, cpu, cuda, cuda:1, ...
    log_every: int = cosmetic(10)  # steps between two records
    checkpoint_minutes: float = cosmetic(5.0)  # at most this much work is lost; also saved at each evaluation

    def __post_init__(self) -> None:
        require(self.epochs >= 0, f"train.epochs = {self.epochs}: must be 0 or more")
        require(self.batch_size >= 2, f"train.batch_size = {self.batch_size}: must be at least 2")
        require(self.log_every >= 1, f"train.log_every = {self.log_every}: must be at least 1")
        require(
            self.checkpoint_minutes >= 0, f"train.checkpoint_minutes = {self.checkpoint_minutes}: must be 0 or more"
        )


@dataclass(frozen=True)
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
    paper_protocol: bool = False  # also the papers' own probe: lr 30, no weight decay, 100 epochs, augmented crops

    def __post_init__(self) -> None:
        require(self.knn_every >= 0, f"evaluation.knn_every = {self.knn_every}: must be 0 or more")
        require(self.knn_temperature > 0, f"evaluation.knn_temperature = {self.knn_temperature}: must be above 0")
        require(self.linear_epochs >= 1, f"evaluation.linear_epochs = {self.linear_epochs}: must be at least 1")
        require(
            self.few_label_per_class >= 1,
            f"evaluation.few_label_per_class = {self.few_label_per_class}: must be at least 1",
        )
        require(self.few_label_draws >= 1, f"evaluation.few_label_draws = {self.few_label_draws}: must be at least 1")


@dataclass(frozen=True)
class Config:
    """One run, fully described."""

    data: Data = Data()
    augment: Augment = Augment()
    encoder: ResNet = ResNet()
    head: Head = Head()
    key_encoder: Momentum = Momentum()
    negatives: Queue = Queue()
    loss: InfoNCE = InfoNCE()
    optim: SGD | AdamW = SGD()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()

    def __post_init__(self) -> None:
        splits, batch = self.encoder.batch_norm_splits, self.train.batch_size
        require(
            batch % splits == 0,
            f"train.batch_size = {batch} and encoder.batch_norm_splits = {splits}: the batch must divide into equal parts",
        )
        require(
            batch // splits >= 2,
            f"train.batch_size = {batch} and encoder.batch_norm_splits = {splits}: "
            "BatchNorm needs 2 images or more in each part",
        )
        require(
            splits > 1 or not self.key_encoder.shuffle,
            "key_encoder.shuffle = True and encoder.batch_norm_splits = 1: shuffling without splitting BatchNorm changes "
            "nothing on one device; set encoder.batch_norm_splits=8 or key_encoder.shuffle=false",
        )
