"""Which batch, and how should lr follow it?  python sweeps/batch_size.py  (7 arms x 3 seeds on the digits)

Goyal et al. (arXiv:1706.02677) scale lr with the batch, Krizhevsky (arXiv:1404.5997) with its root; users report 57.9 % at
batch 2,048 without (facebookresearch/moco#73). Equal epochs, so a larger batch takes fewer steps.
"""

from experiments import Sweep, main
from moco.config import Config
from moco.methods import with_batch

RULES = {"same-lr": 0.0, "sqrt": 0.5, "linear": 1.0}  # power of the batch


def arms(base: Config) -> dict[str, Config]:
    batch = base.train.batch_size
    sizes = {f"B={n}-{rule}": (n, power) for n in (batch // 2, batch * 2) for rule, power in RULES.items()}
    return {f"B={batch}": base, **{arm: with_batch(base, n, power) for arm, (n, power) in sizes.items()}}


SWEEP = Sweep(
    name="batch_size",
    question="Does the batch size matter once the learning rate follows it, by which rule?",
    claim="little, with the linear rule",
    arms=arms,
    varies=("train.batch_size", "optim.lr"),
    baseline=lambda base: f"B={base.train.batch_size}",
)

if __name__ == "__main__":
    main(SWEEP)
