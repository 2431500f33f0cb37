"""Peak memory of a training step above the bare process: each contender in a process of its own, in turns.

The bare process has imported everything and has the two views; what it takes from there is the model, its optimiser and
its negatives, and the largest that a step ever needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

from tests.benchmarks.peak import extra_bytes
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result
from tests.benchmarks.suite.step import Precision, ours_of, peer_of, random_views, resnet50

MIB = 2**20
STEPS = 3  # the optimiser's state is there from the second on
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


@benchmark(
    "peak memory of a ResNet-50 step at 224 px, above the bare process",
    {"batch": 8},
)
def run(options: Options) -> list[Result]:
    names = [*PRECISIONS, options.against]
    seen: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            seen[name].append(in_own_process(name, options))
    peer = seen[options.against]
    return [
        Result(
            name=f"memory, ResNet-50, 224 px, {name}",
            ratio=median(seen[name]) / median(peer),
            ours=median(seen[name]) / MIB,
            peer=median(peer) / MIB,
            unit="MiB",
            against=options.against,
            spread=spread(seen[name], peer),
            wanted=0.7,
            better="lower",
            rounds=options.rounds,
            settings=options.settings,
        )
        for name in PRECISIONS
    ]


def spread(ours: list[float], peer: list[float]) -> tuple[float, float]:
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return min(ratios), max(ratios)


def in_own_process(name: str, options: Options) -> float:
    """Bytes. Raises ValueError where the system does not tell a process' peak, and for a step that does not fit."""
    asked = [name, options.device, str(options.whole("batch")), str(options.threads)]
    done = subprocess.run([sys.executable, "-m", __name__, *asked], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        raise ValueError(f"memory: the {name} step: {reason}; if it does not fit, lower --set batch")
    extra: float | None = json.loads(done.stdout.splitlines()[-1])
    if extra is None:
        raise ValueError("memory: this system does not tell a process' peak; it needs Linux's /proc")
    return extra


def measure(name: str, device: str, batch: int, threads: int) -> int | None:
    import torch

    torch.set_num_threads(threads)
    config = resnet50(batch).config
    views = random_views(config, device)

    def steps() -> None:
        for precision in PRECISIONS:
            if name == precision:
                step = ours_of(config, (precision, "eager"), views, device)
                break
        else:
            step = peer_of(config, name, views, device)
        for _ in range(STEPS):
            step()

    return extra_bytes(steps, device)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
