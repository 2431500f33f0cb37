"""Which method, at equal compute?  python sweeps/method.py  (6 arms x 3 seeds on the digits)

Encoder passes per image, a backward counting two: v1 and v2 4, SimCLR and SupCon 6, v2+ and v3 8; epochs are scaled to v1's.
Views, encoder, T and optimiser are the baseline's: not the papers' recipes, so no published column. SupCon sees the labels.
"""

from dataclasses import replace

from experiments import Sweep, expect, main
from moco import methods as m
from moco.config import Config

PASSES = {m.moco_v2: 4, m.moco_v2plus: 8, m.moco_v3: 8, m.simclr: 6, m.supcon: 6}


def arms(base: Config) -> dict[str, Config]:
    epochs = {method: base.train.epochs * 4 // passes for method, passes in PASSES.items()}
    found = {x: replace(m.mechanism_of(x(), base), train=replace(base.train, epochs=e)) for x, e in epochs.items()}
    return {"v1": base, **{method.__name__.removeprefix("moco_"): config for method, config in found.items()}}


SWEEP = Sweep(
    name="method",
    question="Which way of contrasting learns most for the same compute?",
    claim="SupCon, which sees the labels, above SimCLR",
    shape=(expect.order("supcon", "simclr"),),
    arms=arms,
    varies=("encoder.batch_norm_splits", "head", "predictor", "key_encoder", "negatives", "loss", "train.epochs"),
    baseline="v1",
)

if __name__ == "__main__":
    main(SWEEP)
