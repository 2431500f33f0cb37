"""One training step on random views: our trainer, with all its bookkeeping, against the same networks stepped plainly.

`eager` is the better of float32 and bf16 without compiling, `best` the best of all that were timed: which one pays is a
matter of the machine (bf16 needs AMX on a CPU), so it is measured. B images of a batch, S side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from moco import config as c
from moco.data.loader import Batch
from moco.data.splits import ImageData, Split
from moco.encoders import Encoder, build_encoder, build_head, build_predictor
from moco.methods import moco_v2, moco_v3_vit
from moco.trainer import Trainer
from tests.benchmarks.ceiling import arithmetic_share
from tests.benchmarks.plain import Step, plain_step, plain_v3_step
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result, compared
from tests.benchmarks.rounds import Contender, Measured, clock_of, interleave

Views = tuple[Tensor, Tensor]
Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
Way = Literal["eager", "compiled", "graphs"]  # graphs: compiled, and replayed on a GPU
GEMM = 2048  # side of the matrices whose product is the peak that the step is held against
GPU_GEMM, GPU_PRODUCTS = 8192, 16  # there, so that a turn takes a tenth of a second


@dataclass(frozen=True)
class Case:
    """A network, a batch and a recipe that people train. `wanted`: (eager, best)."""

    name: str
    config: c.Config
    wanted: tuple[float | None, float | None]
    steps: int  # in a turn


def cases(options: Options) -> list[Case]:
    every = {"narrow": narrow, "resnet18": resnet18, "resnet50": resnet50, "vit_small": vit_small}
    return [build(options.whole("batch")) for name, build in every.items() if options.whole(name)]


def v2(encoder: c.ResNet, side: int, batch: int, keys: int) -> c.Config:
    """Without parts of BatchNorm: the plain step has none either."""
    base = moco_v2()
    return replace(
        base,
        data=c.Data(name="digits", image_size=side),
        encoder=encoder,
        negatives=c.Queue(keys),
        key_encoder=c.Momentum(0.999, shuffle=False),
        train=replace(base.train, batch_size=batch),
    )


def narrow(batch: int) -> Case:
    config = v2(c.ResNet(depth=8, width=16, stem="strided"), 32, batch or 128, 1_024)
    return Case("narrow ResNet, 32 px", config, (2.2, 2.6), steps=4)


def resnet18(batch: int) -> Case:
    return Case("ResNet-18, 32 px", v2(c.ResNet(depth=18, stem="small"), 32, batch or 32, 4_096), (2.2, 2.5), steps=1)


def resnet50(batch: int) -> Case:
    return Case("ResNet-50, 224 px", v2(c.ResNet(depth=50), 224, batch or 4, 65_536), (2.5, 2.5), steps=1)


def vit_small(batch: int) -> Case:
    config = moco_v3_vit()
    config = replace(config, train=replace(config.train, batch_size=batch or 4))
    return Case("ViT-S/16 v3, 224 px", config, (1.4, 1.4), steps=1)


SETTINGS = {"narrow": 1, "resnet18": 1, "resnet50": 0, "vit_small": 0, "batch": 0, "compile": 0, "graphs": 0}


@benchmark(
    "a training step: images (two views each) through our trainer, the plain step, lightly's",
    SETTINGS,
    least=dict.fromkeys(SETTINGS, 0),
)
def run(options: Options) -> list[Result]:
    if not cases(options):
        raise ValueError("step: no network is left; set one of narrow, resnet18, resnet50, vit_small to 1")
    return [result for case in cases(options) for result in of_case(case, options)]


def of_case(case: Case, options: Options) -> list[Result]:
    views = random_views(case.config, options.device)
    ways: list[Way] = ["eager", *(("compiled",) if options.whole("compile") else ())]
    ways += ["graphs"] if options.whole("graphs") else []
    modes = [(precision, way) for way in ways for precision in PRECISIONS]
    ours = {name_of(mode): ours_of(case.config, mode, views, options.device) for mode in modes}
    plain = peer_of(case.config, options.against, views, options.device)
    contenders = {**ours, options.against: plain}
    images = case.steps * len(views[0])
    torch.compiler.reset()  # of all cases together dynamo would compile the first few, and run the rest eagerly
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        measured = interleave(
            [Contender(name, times(case.steps, step), images) for name, step in contenders.items()],
            options.rounds,
            clock_of(options.device),
            warm_up=2,
        )
    eager = fastest(measured, [name_of((precision, "eager")) for precision in PRECISIONS])
    notes = [share_of_peak(plain, measured, options, len(views[0])), limit(eager, ours[eager], measured, options)]
    best = fastest(measured, list(ours))
    every = "; ".join(f"{name} {measured.ratio(name, options.against).median:.2f}x" for name in ours)
    return [
        compared(
            f"{case.name}, {label}",
            measured,
            name,
            options.against,
            "images",
            options,
            wanted=wanted,
            notes=(f"{name} is the fastest of: {every}", *notes),
            batch=len(views[0]),
        )
        for (label, name), wanted in zip({"eager": eager, "best": best}.items(), case.wanted, strict=True)
    ]


def name_of(mode: tuple[Precision, Way]) -> str:
    precision, way = mode
    return precision if way == "eager" else f"{precision} {way}"


def fastest(measured: Measured, names: list[str]) -> str:
    return max(names, key=measured.rate)


def times(count: int, step: Callable[[], object]) -> Callable[[], None]:
    def turn() -> None:
        for _ in range(count):
            step()

    return turn


def random_views(config: c.Config, device: str) -> Views:
    side, batch = config.data.image_size, config.train.batch_size
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(batch, 3, side, side, generator=generator) * 2 - 1 for _ in range(2))
    return first.to(device), second.to(device)


def ours_of(config: c.Config, mode: tuple[Precision, Way], views: Views, device: str) -> Callable[[], None]:
    """A step of the real trainer, with its notes for the next record, on views that are there already."""
    precision, way = mode
    train = replace(
        config.train,
        precision=precision,
        speed=way,
        device=device,
        log_every=10**9,
    )
    trainer = Trainer(replace(config, train=train), unreal(config), torch.device(device))
    indices_B = torch.arange(len(views[0]), device=device)

    def step() -> None:
        trainer.take_step(Batch(trainer.step, indices_B, indices_B * 0, *views, slice(0, len(views[0]))))

    return step


@dataclass(frozen=True)
class Black:
    """As many images as the queue wants to see, on no device: nobody looks at them."""

    count: int
    side: int

    def __len__(self) -> int:
        return self.count

    def take(self, indices_B: Tensor) -> Tensor:
        return torch.zeros(len(indices_B), 3, self.side, self.side, dtype=torch.uint8)


def unreal(config: c.Config) -> ImageData:
    count = max(65_536, config.train.batch_size)
    images = Black(count, config.data.image_size)
    split = Split(images, torch.zeros(count, dtype=torch.int64), torch.arange(count))
    return ImageData(split, split, split, split, ("one",))


def peer_of(config: c.Config, against: str, views: Views, device: str) -> Callable[[], None]:
    step = peer_step(config, against, device)
    return lambda: step(*views)


def peer_step(config: c.Config, against: str, device: str) -> Step:
    """The same networks in the peer's hands. Raises ValueError where the peer has no such method."""
    encoder = build_encoder(config.encoder, config.data.image_size).to(device)
    momentum, temperature = config.part(c.Momentum).momentum, config.part(c.InfoNCE).temperature
    head = config.part(c.Head)
    if not isinstance(config.negatives, c.Queue):
        return of_v3(config, encoder, against, device)
    if against == "lightly":
        from tests.benchmarks.peers.lightly_steps import lightly_step

        return lightly_step(encoder, encoder.feature_dim, head.dim, config.negatives.size, momentum, temperature)
    query = nn.Sequential(encoder, build_head(head, encoder.feature_dim)).to(device)
    return plain_step(query, head.dim, config.negatives.size, momentum, temperature)


def of_v3(config: c.Config, encoder: Encoder, against: str, device: str) -> Step:
    if against != "plain":
        raise ValueError("--set vit_small=1: compared with the plain step only; leave out --against")
    head, predictor = config.part(c.Head), config.part(c.Predictor)
    query = nn.Sequential(encoder, build_head(head, encoder.feature_dim)).to(device)
    momentum, temperature = config.part(c.Momentum).momentum, config.part(c.InfoNCE).temperature
    return plain_v3_step(query, build_predictor(predictor, head.dim).to(device), momentum, temperature)


def share_of_peak(step: Callable[[], None], measured: Measured, options: Options, batch: int) -> str:
    """FLOPs of an image, counted in the peer's step, and how near its speed is to a large matrix product, in words."""
    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops() / batch
    side = gemm_side(options.device)
    rates = {name: measured.rate(name) for name in measured.units}
    peaks = {dtype: peak(options, dtype) for dtype in (torch.float32, torch.bfloat16)}
    best = max((name for name in rates if name.startswith("fp32")), key=lambda name: rates[name])
    return (
        f"{flops / 1e9:.3g} GFLOP per image; in a {side} x {side} product float32 reaches {peaks[torch.float32] / 1e9:,.0f} "
        f"GFLOP/s, bf16 {peaks[torch.bfloat16] / 1e9:,.0f}; {best} {rates[best] * flops / peaks[torch.float32]:.0%} of "
        f"float32's, {options.against} {rates[options.against] * flops / peaks[torch.float32]:.0%}"
    )


def limit(name: str, step: Callable[[], None], measured: Measured, options: Options) -> str:
    """What would be left if all but the arithmetic cost nothing, in words."""
    share = arithmetic_share(step, options.device)
    ratio = measured.ratio(name, options.against).median
    return (
        f"{share:.0%} of the time in {name}'s operators is convolutions, matrix products and attention: with all else "
        f"free it would be at {ratio / share:.2f}x"
    )


def peak(options: Options, dtype: torch.dtype) -> float:
    """FLOP per second of the clock that counts; on a GPU float32 with TF32, as its convolutions."""
    side = gemm_side(options.device)
    products = 1 if side == GEMM else GPU_PRODUCTS
    a = torch.randn(side, side, device=options.device, dtype=dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if products > 1 else before)
    gemm = Contender("gemm", times(products, lambda: a @ a), products * 2.0 * side**3)
    measured = interleave([gemm], 5, clock_of(options.device))
    torch.set_float32_matmul_precision(before)
    return max(measured.rates("gemm"))


def gemm_side(device: str) -> int:
    return GEMM if device == "cpu" else GPU_GEMM
