"""Is a symmetric loss better, or only longer training?  python sweeps/symmetric_loss.py  (3 arms x 3 seeds on the digits)

Authors' CIFAR-10 notebook: asymmetric 82.6 / 86.3, symmetric 85.3 / 88.5 after 200 / 400 epochs: at equal epochs it gains,
at equal compute (crops seen) it does not. `symmetric` has half the epochs of `asymmetric`, `symmetric-long` as many.
"""

from dataclasses import replace

from experiments import NOTEBOOK, Sweep, main
from moco.config import Config, InfoNCE


def arms(base: Config) -> dict[str, Config]:
    one = replace(base, loss=replace(base.part(InfoNCE), symmetric=False))
    both = replace(base, loss=replace(base.part(InfoNCE), symmetric=True))
    half = replace(base.train, epochs=base.train.epochs // 2)
    return {"asymmetric": one, "symmetric": replace(both, train=half), "symmetric-long": both}


SWEEP = Sweep(
    name="symmetric_loss",
    question="Does a symmetric loss help at equal compute, and at equal epochs?",
    claim="equal at equal compute, better at equal epochs",
    arms=arms,
    varies=("loss.symmetric", "train.epochs"),
    baseline="asymmetric",
    published={"asymmetric": 86.3, "symmetric": 85.3, "symmetric-long": 88.5},
    published_source=f"{NOTEBOOK}; kNN, 400 and 200 epochs",
)

if __name__ == "__main__":
    main(SWEEP)
