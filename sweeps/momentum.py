"""How slowly must the key encoder move?  python sweeps/momentum.py  (5 arms x 3 seeds on the digits: minutes on 2 cores)

He et al. (arXiv:1911.05722, section 4.1, K = 4,096): m = 0 fails, 0.9 is poor, 0.99 to 0.9999 work. A run on the digits has
few hundred steps, which favours a lower m than the papers': expect, with 3 seeds, kNN(0.99) - kNN(0) > 10 points,
kNN(0.99) - kNN(0.9) > 3, and the loss of m = 0 above 0.9 log(K + 1). ShuffleBN stays as the baseline has it.
"""

from dataclasses import replace

from experiments import PAPER_V1, Sweep, expect, main
from moco.config import Config, Momentum


def arms(base: Config) -> dict[str, Config]:
    keys = base.part(Momentum)
    momenta = sorted({0.0, 0.9, 0.99, 0.999, 0.9999, keys.momentum})
    return {f"m={m:g}": replace(base, key_encoder=replace(keys, momentum=m)) for m in momenta}


SWEEP = Sweep(
    name="momentum",
    question="How does accuracy depend on the momentum m of the key encoder?",
    shape=(expect.fails("m=0", by=5), expect.best_between(0.99, 0.999)),
    arms=arms,
    varies=("key_encoder.momentum",),
    baseline=lambda base: f"m={base.part(Momentum).momentum:g}",
    axis="key_encoder.momentum",
    published={"m=0.9": 55.2, "m=0.99": 57.8, "m=0.999": 59.0, "m=0.9999": 58.9},
    published_source=f"{PAPER_V1}, K = 4,096; m = 0 fails to train",
)

if __name__ == "__main__":
    main(SWEEP)
