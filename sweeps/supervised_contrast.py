"""What do labels add to contrast, and contrast to labels?  python sweeps/supervised_contrast.py  (5 arms x 3 seeds, digits)

Khosla et al. (arXiv:2004.11362, Table 2), CIFAR-10: SupCon 96.0, cross entropy 95.0, SimCLR 93.6. `moco-labels` is v1 whose
positives are all keys of the class in the queue. All labels of the training images are used.
"""

from dataclasses import replace

from experiments import SUPCON, Sweep, expect, main
from moco import methods as m
from moco.config import Config, InfoNCE


def arms(base: Config) -> dict[str, Config]:
    labelled = replace(base, loss=replace(base.part(InfoNCE), positives="label"))
    simclr, supcon = m.mechanism_of(m.simclr(), base), m.mechanism_of(m.supcon(), base)
    contrast = {"simclr": simclr, "supcon": supcon, "moco": base, "moco-labels": labelled}
    return {**contrast, "cross-entropy": m.supervised(base)}


SWEEP = Sweep(
    name="supervised_contrast",
    question="Do labels help contrast, and does contrast beat cross entropy?",
    claim="SupCon above SimCLR",
    shape=(expect.order("supcon", "simclr"),),
    arms=arms,
    varies=("encoder.batch_norm_splits", "head", "key_encoder", "negatives", "loss"),
    baseline="simclr",
    published={"simclr": 93.6, "supcon": 96.0, "cross-entropy": 95.0},
    published_source=SUPCON,
)

if __name__ == "__main__":
    main(SWEEP)
