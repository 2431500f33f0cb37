"""How a run is computed: on which device, and how fast its steps. Decided once for all arms of a sweep.

No result depends on it but by rounding.

    decide      from the configs and what is known of the machine; nothing is tried out
    asked       what a config asks for itself

Rules rest on what was measured (tests/benchmarks/BENCHMARKS.md, one H100): where nothing was, a run is eager and says so.
Imports no torch, because a launch asks before anything starts.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from moco.config import Config, ResNet, ViT
from moco.config.training import Speed, Train

COMPILING_SECONDS = 60.0  # cold, until the first step: 53 s for ResNet-18 in parts, 56 s for ResNet-50
NO_GPU = "no GPU is asked for here"


@dataclass(frozen=True)
class Way:
    """`device`: auto where it is not decided, because each config names its own. `reason`: why, in words."""

    device: str
    speed: Speed
    reason: str

    def here(self, processes: int = 1, *, gpus: int) -> Way:
        """The same where it can be done: a node may lack the GPUs or the compiler of the machine that decided, and a run may
        have more processes. `gpus`: that this process may use."""
        if self.device.startswith("cuda") and not gpus:
            return Way("auto", "eager", "no GPU is asked for here")
        names, package = compilers("cuda")
        if self.speed == "graphs" and processes > 1:
            why = f"graphs are for one process, and these are {processes}"
            return Way(self.device, "compiled", why).here(processes, gpus=gpus)
        if self.speed == "eager" or any(map(shutil.which, names)):
            return self
        return Way(self.device, "eager", f"no compiler on this node ({' or '.join(names)}); install {package}")

    @property
    def line(self) -> str:
        on_cpu = self.device == "cpu" or self.reason == NO_GPU
        return f"{self.speed} steps on {'the CPU' if on_cpu else 'the GPU'}: {self.reason}"

    def of(self, config: Config) -> Config:
        """The config with what was decided in place of `auto`."""
        train = config.train
        device = self.device if train.device == "auto" else train.device
        speed = self.speed if asked(train) == "auto" else asked(train)
        if device == "cpu" and asked(train) == "auto":
            speed = "eager"
        return replace(config, train=replace(train, device=device, speed=speed, compile=False, cuda_graphs=False))

    def record(self) -> dict[str, str]:
        return asdict(self)

    @staticmethod
    def read(record: Any) -> Way | None:
        """None for what this version cannot read: the run then decides for itself."""
        known = isinstance(record, dict) and record.keys() == {"device", "speed", "reason"}
        return Way(**record) if known and record["speed"] in ("eager", "compiled", "graphs") else None


def asked(train: Train) -> Speed:
    """`train.speed`, or what the two older switches mean."""
    if train.speed != "auto":
        return train.speed
    return "graphs" if train.cuda_graphs else "compiled" if train.compile else "auto"


def decide(configs: Sequence[Config], steps: Sequence[int], *, gpus: int, processes: int = 1) -> Way:
    """For arms of these configs, which take so many steps each (0 for what is not trained), where `gpus` are to be had."""
    trained = [(config, count) for config, count in zip(configs, steps, strict=True) if count]
    if not trained:
        return Way("auto" if gpus else "cpu", "eager", "nothing is trained")
    if all(config.train.device == "cpu" for config in configs):
        return Way("cpu", "eager", "train.device = cpu")
    if not gpus:
        return Way("auto", "eager", NO_GPU)
    automatic = all(config.train.device == "auto" for config in configs)
    if automatic and processes == 1 and all(quicker_on_a_cpu(config) for config, _ in trained):
        return Way(
            "cpu",
            "eager",
            "six epochs of the digits took 2.6 s on a CPU and 5.2 s on an H100; train.device=cuda uses the GPU",
        )
    return Way("cuda" if automatic else "auto", *_on_a_gpu(trained, processes))


def quicker_on_a_cpu(config: Config) -> bool:
    """The networks of the digits: a GPU waits for Python there."""
    encoder = config.encoder
    return (
        isinstance(encoder, ResNet)
        and (encoder.depth, encoder.stem) == (8, "strided")
        and (encoder.width <= 16 and config.data.image_size <= 16)
    )


def _on_a_gpu(trained: list[tuple[Config, int]], processes: int) -> tuple[Speed, str]:
    if any(config.train.deterministic for config, _ in trained):
        return "eager", "train.deterministic = true, and compiled steps were not checked for it"
    if any(config.train.accumulate > 1 for config, _ in trained):
        return "eager", "train.accumulate, and compiling needs whole batches"
    names, package = compilers("cuda")
    if not any(shutil.which(name) for name in names):
        return "eager", f"no compiler here ({' or '.join(names)}); {package} would make longer runs faster"
    saved = min(seconds_saved(config, count) for config, count in trained)
    if math.isnan(saved):
        return "eager", "what compiling saves this network was not measured; train.speed=graphs tries it"
    fast: Speed = "graphs"
    if processes > 1 or any(isinstance(config.encoder, ViT) for config, _ in trained):
        fast = "compiled"
    about = f"compiling costs about {COMPILING_SECONDS:.0f} s and would save {saved:,.0f} s by what an H100 did"
    return (fast, about) if saved > COMPILING_SECONDS else ("eager", about)


def seconds_saved(config: Config, steps: int) -> float:
    """By compiled steps, in the whole run, from images a second of eager and fast steps in bf16, in proportion to pixels."""
    encoder, side = config.encoder, config.data.image_size
    match encoder:
        case ViT():
            eager, fast, measured_side = 2_085, 3_057, 224
        case ResNet(depth=8):
            return math.nan
        case ResNet(depth=18 | 34) if encoder.batch_norm_splits > 1:
            eager, fast, measured_side = 9_973, 42_936, 32
        case ResNet(depth=18 | 34):
            eager, fast, measured_side = 27_026, 48_424, 32
        case _:
            eager, fast, measured_side = 2_681, 4_160, 224
    return steps * config.train.batch_size * (1 / eager - 1 / fast) * (side / measured_side) ** 2


def compilers(device_type: str) -> tuple[list[str], str]:
    """Commands that torch.compile tries there, and what to install: C++ for its loops on a CPU, C for Triton's launchers."""
    if device_type == "cpu":
        usual = "clang++" if sys.platform == "darwin" else "g++"
        return [*os.environ.get("CXX", usual).split()[:1]], usual
    return [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"], "gcc"  # Triton takes CC as one word, too
