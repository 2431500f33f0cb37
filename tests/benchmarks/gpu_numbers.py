"""The same numbers? A GPU against itself, against a CPU, and the tests that have a variant for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from experiments.plan.baselines import digits
from moco.config import Config
from moco.data import load
from moco.trainer import Trainer

Report = Callable[..., None]
MARKED = ["-m", "gpu", "tests/moco", "tests/experiments/run"]  # where there is a GPU
TWINS = ["-k", "cpu", "tests/moco/test_batchnorm.py"]  # the same on a CPU


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def tests(report: Report) -> None:
    """Those marked gpu; without one, a few that run on each device."""
    chosen = MARKED if torch.cuda.is_available() else TWINS
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    print(result.stdout, result.stderr, file=sys.stderr)
    lines = result.stdout.strip().splitlines() or result.stderr.strip().splitlines()
    report(
        exit_code=result.returncode, last_line=lines[-1], failed=[line for line in lines if line.startswith("FAILED")]
    )


def stepped(config: Config, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of the first steps, the weights after them."""
    trainer = Trainer(config, load(config.data, print), torch.device(config.train.device))
    losses: list[float] = []
    while len(losses) < steps:
        for batch in trainer.batches.epoch(trainer.epoch):
            trainer.take_step(batch)
            losses.append(float(trainer.meter.sums["loss"]))
            if len(losses) == steps:
                break
    each = [after - before for before, after in pairwise([0.0, *losses])]
    return each, {name: tensor.detach().cpu() for name, tensor in trainer.model.state_dict().items()}


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[str, float]:
    differences = {
        name: float((one[name].double() - other[name].double()).abs().max()) for name in one if one[name].numel()
    }
    weights = {name: value for name, value in differences.items() if "query" in name}
    name = max(weights, key=lambda name: weights[name])
    return name, weights[name]


def repeats(report: Report) -> None:
    """Sixty steps of the digits twice, under each of torch's promises. `warned` names what has no deterministic way."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA starts, which this process has not done yet
    config = digits()
    config = replace(config, train=replace(config.train, epochs=6, device=device(), log_every=10**9))
    steps = 60 if torch.cuda.is_available() else 3
    stepped(config, 2)
    for algorithms, cudnn in ((False, False), (False, True), (True, False), (True, True)):
        torch.use_deterministic_algorithms(algorithms, warn_only=True)
        torch.backends.cudnn.deterministic = cudnn
        started = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            (first, weights), (second, again) = (stepped(config, steps) for _ in range(2))
        unlike = next((step for step, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), None)
        name, difference = largest_difference(weights, again)
        warned = sorted({str(one.message)[:90] for one in caught if "determinis" in str(one.message)})
        report(
            use_deterministic_algorithms=algorithms,
            cudnn_deterministic=cudnn,
            difference=difference,
            of=name,
            first_unlike_loss=unlike,
            s_a_run=(time.monotonic() - started) / 2,
            warned=warned,
        )
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def devices(report: Report) -> None:
    """Ten steps at a low rate on a recipe without noise, which each device draws for itself: CPU against GPU."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    base = digits()
    optim = replace(base.optim, lr=0.001)
    for name, noiseless in {"digits": replace(base.augment, noise=0.0)}.items():
        config = replace(base, augment=noiseless, optim=optim, train=replace(base.train, log_every=10**9))
        runs = {where: replace(config, train=replace(config.train, device=where)) for where in ("cpu", device())}
        (cpu, weights), (gpu, theirs) = (stepped(run, 10) for run in (runs["cpu"], runs[device()]))
        relative = [abs(a - b) / abs(a) for a, b in zip(cpu, gpu, strict=True)]
        where, difference = largest_difference(weights, theirs)
        report(
            recipe=name,
            largest_relative=max(relative),
            relative=[float(f"{r:.2g}") for r in relative],
            weights=difference,
            of=where,
        )


PARTS: dict[str, Callable[[Report], None]] = {"tests": tests, "repeats": repeats, "devices": devices}
