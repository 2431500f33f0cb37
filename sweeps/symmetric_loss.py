"""Is a symmetric loss better, or only longer training?  python sweeps/symmetric_loss.py  (5 arms x 3 seeds on the digits)

Authors' CIFAR-10 notebook: asymmetric 82.6 / 86.3, symmetric 85.3 / 88.5 after 200 / 400 epochs: at equal epochs it gains,
at equal compute (crops seen) it does not. `summed` is the notebook's symmetric loss: both directions added up, one queue with
both keys. `symmetric` is v2+'s, their mean with a queue for each, for which the notebook has no number. Both have half the
epochs of `asymmetric`, `-long` as many.
"""

from dataclasses import replace

from experiments import NOTEBOOK, Sweep, main
from moco.config import Config, InfoNCE, Momentum, Queue
from moco.methods import notebook_symmetric


def arms(base: Config) -> dict[str, Config]:
    one = replace(base, loss=replace(base.part(InfoNCE), symmetric=False, directions="mean"))
    both = replace(base, loss=replace(base.part(InfoNCE), symmetric=True, directions="mean"))
    half = replace(base.train, epochs=base.train.epochs // 2)
    arms = {"asymmetric": one, "symmetric": replace(both, train=half), "symmetric-long": both}
    if isinstance(base.negatives, Queue) and isinstance(base.key_encoder, Momentum):  # the notebook's method
        summed = notebook_symmetric(base)
        arms |= {"summed": replace(summed, train=half), "summed-long": summed}
    return arms


SWEEP = Sweep(
    name="symmetric_loss",
    question="Does a symmetric loss help at equal compute, and at equal epochs?",
    claim="equal at equal compute, better at equal epochs",
    arms=arms,
    varies=(
        "loss.symmetric",
        "loss.directions",
        "negatives.shared",
        "key_encoder.shuffle_apart",
        "train.epochs",
    ),
    baseline="asymmetric",
    published={"asymmetric": 86.3, "summed": 85.3, "summed-long": 88.5},
    published_source=f"{NOTEBOOK}; kNN, 400 and 200 epochs",
)

if __name__ == "__main__":
    main(SWEEP)
