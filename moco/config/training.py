"""How the weights move: optimisers, schedules, batch, precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moco.config.fields import added, cosmetic, require
from moco.config.text import typed_values

Scaling = Literal["none", "linear", "sqrt"]
Speed = Literal["auto", "eager", "compiled", "graphs"]


@dataclass(frozen=True)
@typed_values
class Step:
    """lr x `factor` at each epoch of `milestones`."""

    milestones: tuple[int, ...] = (120, 160)
    factor: float = 0.1
    warmup_epochs: float = 0.0


@dataclass(frozen=True)
@typed_values
class Cosine:
    """lr x (1 + cos(pi epoch / epochs)) / 2. `first_epoch` 1 repeats the CIFAR notebook, whose epochs count from one."""

    warmup_epochs: float = 0.0
    per_step: bool = False  # fractional epochs, as v3; else the lr is constant within an epoch, as v1 and v2
    first_epoch: int = 0


Schedule = Step | Cosine


@dataclass(frozen=True)
@typed_values
class SGD:
    """SGD with momentum; weight decay on all parameters, as the authors'.

    In all optimisers: `scaling` multiplies lr by (batch_size / 256), its root, or 1. `weight_decay_to` moves the weight
    decay there by half a cosine, step by step.
    """

    lr: float = 0.03
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: Schedule = Step()
    scaling: Scaling = "none"
    weight_decay_to: float | None = None

    def __post_init__(self) -> None:
        _check_rates(self)
        _check_momentum(self.momentum)


@dataclass(frozen=True)
@typed_values
class AdamW:
    """AdamW (Loshchilov and Hutter); weight decay on all parameters, as v3's ViT."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = Cosine()
    scaling: Scaling = "none"
    weight_decay_to: float | None = None

    def __post_init__(self) -> None:
        _check_rates(self)
        for beta in self.betas:
            require(0.0 <= beta < 1.0, f"optim.betas = {self.betas}: must be at least 0 and below 1")


@dataclass(frozen=True)
@typed_values
class LARS:
    """Layer-wise adaptive rates (You et al., arXiv:1708.03888) as v3 uses them: parameters of one dimension or none
    (biases, BatchNorm) have neither weight decay nor adaptation.

    A layer's rate is lr x scale. `adaptation` joint: trust |w| / |g + decay w| (v3's code); clipped: the smaller of
    trust |w| / (|g| + decay |w|) / lr and 1 (LARC, as in solo-learn, whose `eta` is this `trust`)."""

    lr: float = 0.3
    weight_decay: float = 1e-6
    momentum: float = 0.9
    trust: float = 0.001
    schedule: Schedule = Cosine(warmup_epochs=10, per_step=True)
    scaling: Scaling = "linear"
    weight_decay_to: float | None = None
    adaptation: Literal["joint", "clipped"] = added("joint", before="joint")

    def __post_init__(self) -> None:
        _check_rates(self)
        _check_momentum(self.momentum)
        require(self.trust > 0.0, f"optim.trust = {self.trust}: must be above 0")


def _check_rates(optim: SGD | AdamW | LARS) -> None:
    warmup = optim.schedule.warmup_epochs
    require(optim.lr > 0.0, f"optim.lr = {optim.lr}: must be above 0")
    require(optim.weight_decay >= 0.0, f"optim.weight_decay = {optim.weight_decay}: must be 0 or more")
    require(
        optim.weight_decay_to is None or optim.weight_decay_to >= 0.0,
        f"optim.weight_decay_to = {optim.weight_decay_to}: must be 0 or more, or none",
    )
    require(warmup >= 0.0, f"optim.schedule.warmup_epochs = {warmup}: must be 0 or more")


def _check_momentum(momentum: float) -> None:
    require(0.0 <= momentum < 1.0, f"optim.momentum = {momentum}: must be at least 0 and below 1")


@dataclass(frozen=True)
@typed_values
class Train:
    """`epochs` 0 is the random-initialisation row: BatchNorm statistics are measured, no weight moves.

    `batch_size` is that of one optimiser step, over all GPUs. `accumulate` cuts it into equal parts whose gradients add
    up before the step; queue and key encoder move once per step.

    `speed`: eager; compiled encoders and views (a minute once, then kept); graphs, which replays them on a GPU; auto, what
    pays for the length of the run by what was measured (`moco.speed`). `compile` and `cuda_graphs` are its older form.
    `device` auto, cpu, cuda, cuda:1, ...: auto is the GPU that there is, if it is quicker. `deterministic` makes a GPU repeat
    and resume bit for bit, as a CPU does.
    """

    epochs: int = 200
    batch_size: int = 256
    accumulate: int = 1
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = cosmetic(True)
    compile: bool = cosmetic(False)
    cuda_graphs: bool = cosmetic(False)
    device: str = cosmetic("auto")
    log_every: int = cosmetic(10)  # steps between two records
    checkpoint_minutes: float = cosmetic(5.0)  # at most this much work is lost; also saved at each evaluation
    speed: Literal["auto", "eager", "compiled", "graphs"] = cosmetic("auto")
    deterministic: bool = cosmetic(False)

    def __post_init__(self) -> None:
        require(self.epochs >= 0, f"train.epochs = {self.epochs}: must be 0 or more")
        require(self.batch_size >= 2, f"train.batch_size = {self.batch_size}: must be at least 2")
        require(self.accumulate >= 1, f"train.accumulate = {self.accumulate}: must be at least 1")
        require(
            self.batch_size % self.accumulate == 0,
            f"train.batch_size = {self.batch_size} and train.accumulate = {self.accumulate}: "
            "the batch must divide into equal parts",
        )
        require(
            self.compile or not self.cuda_graphs,
            f"train.cuda_graphs = {self.cuda_graphs}: replays what is compiled; set train.compile=true too, or drop it",
        )
        older = "graphs" if self.cuda_graphs else "compiled" if self.compile else self.speed
        require(
            self.speed in ("auto", older),
            f"train.speed = {self.speed} and train.compile = {self.compile}, train.cuda_graphs = {self.cuda_graphs}: "
            f"these two are the older form of train.speed={older}; leave them out",
        )
        require(self.log_every >= 1, f"train.log_every = {self.log_every}: must be at least 1")
        require(
            self.checkpoint_minutes >= 0, f"train.checkpoint_minutes = {self.checkpoint_minutes}: must be 0 or more"
        )
