"""From v1 to v2: MLP head, stronger augmentation or cosine?  python sweeps/head_and_augmentation.py  (8 arms on the shapes)

Chen et al. (arXiv:2003.04297, Table 1), fully crossed; MLP with T = 0.2, linear with 0.07. Another order is likely here.
"""

from dataclasses import replace

from experiments import PAPER_V2, Sweep, expect, factorial, main, switched
from moco.config import Config, Cosine, Head, InfoNCE, Step
from moco.methods import AUGMENT_V1, AUGMENT_V2


def arms(base: Config) -> dict[str, Config]:
    changed, end = ("grey_first", "jitter", "jitter_probability", "blur"), base.train.epochs
    v1, v2 = (replace(base.augment, **{f: getattr(a, f) for f in changed}) for a in (AUGMENT_V1, AUGMENT_V2))
    linear, mlp = (replace(base.part(Head), hidden=h) for h in ((), (0,)))
    step, cosine = (replace(base.optim, schedule=s) for s in (Step((end * 3 // 5, end * 4 // 5)), Cosine()))
    none = replace(base, head=linear, loss=InfoNCE(0.07), augment=v1, optim=step)
    return factorial("v1", none, mlp={"head": mlp, "loss": InfoNCE(0.2)}, aug={"augment": v2}, cos={"optim": cosine})


SWEEP = Sweep(
    name="head_and_augmentation",
    question="How much do the MLP head, the stronger augmentation and the cosine schedule each add to MoCo v1?",
    claim="each adds, the MLP head most",
    shape=(*map(expect.adds, ("mlp", "aug", "cos")), expect.adds_most("mlp")),
    base="shapes",
    arms=arms,
    varies=("head.hidden", "loss.temperature", "augment", "optim.schedule"),
    baseline="v1",
    factors=switched("mlp", "aug", "cos"),
    published={"v1": 60.6, "mlp": 66.2, "aug": 63.4, "mlp+aug": 67.3, "mlp+aug+cos": 67.5},
    published_source=PAPER_V2,
)

if __name__ == "__main__":
    main(SWEEP)
