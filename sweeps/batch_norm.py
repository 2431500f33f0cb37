"""Does BatchNorm leak, and does shuffling mend it?  python sweeps/batch_norm.py  (3 arms x 3 seeds on the digits)

He et al. (arXiv:1911.05722, section 3.3 and Fig. A.9): unshuffled, the batch's own statistics solve the pretext task. On the
digits that shows in contrast accuracy and loss only: expect no difference in accuracy, watch train/contrast_top1.
"""

from dataclasses import replace

from experiments import Sweep, main
from moco.config import Config, Momentum, ResNet


def arms(base: Config) -> dict[str, Config]:
    keys, encoder = base.part(Momentum), base.part(ResNet)
    split = replace(encoder, batch_norm_splits=max(8, encoder.batch_norm_splits))
    shuffled = replace(base, encoder=split, key_encoder=replace(keys, shuffle=True))
    unshuffled = replace(shuffled, key_encoder=replace(keys, shuffle=False))
    whole = replace(unshuffled, encoder=replace(encoder, batch_norm_splits=1))
    return {"split-shuffled": shuffled, "split": unshuffled, "whole": whole}


SWEEP = Sweep(
    name="batch_norm",
    question="Does BatchNorm over one batch, or over unshuffled parts, cost accuracy?",
    claim="split and shuffled is best after long training",
    arms=arms,
    varies=("encoder.batch_norm_splits", "key_encoder.shuffle"),
    baseline="split-shuffled",
)

if __name__ == "__main__":
    main(SWEEP)
