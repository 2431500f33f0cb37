"""Does reduced precision cost accuracy?  python sweeps/precision.py  (3 arms x 3 seeds on the digits)

Users report half a point to a point less with mixed precision on ImageNet-100, others none (open-mmlab/mmselfsup#35: 66.6
against 67.3 with apex). The loss is in float32 in every arm. A CPU has no float16 units and is 20 times
slower with it: --only fp32 bf16 there, or a few epochs.
"""

from dataclasses import replace

from experiments import Sweep, main
from moco.config import Config


def arms(base: Config) -> dict[str, Config]:
    return {p: replace(base, train=replace(base.train, precision=p)) for p in ("fp32", "bf16", "fp16")}


SWEEP = Sweep(
    name="precision",
    question="Does bfloat16 or float16 cost accuracy against float32?",
    claim="no difference of half a point or more",
    arms=arms,
    varies=("train.precision",),
    baseline="fp32",
)

if __name__ == "__main__":
    main(SWEEP)
