"""Which temperature, and does it depend on the head?  python sweeps/temperature.py  (12 arms x 3 seeds on the digits)

Chen et al. (arXiv:2003.04297, Table 2): MLP prefers T = 0.2, linear T <= 0.1. The digits saturate: expect a trend at most.
"""

from dataclasses import replace

from experiments import PAPER_V2, Sweep, crossed, expect, main
from moco.config import Config, Head, InfoNCE

LINEAR = {0.07: 60.6, 0.1: 60.7, 0.2: 59.0, 0.3: 58.2, 0.4: 57.2, 0.5: 56.4}
MLP = {0.07: 62.9, 0.1: 64.9, 0.2: 66.2, 0.3: 65.7, 0.4: 65.0, 0.5: 64.3}


def arms(base: Config) -> dict[str, Config]:
    head = {h: replace(base.part(Head), hidden=w) for h, w in (("linear", ()), ("mlp", base.part(Head).hidden or (0,)))}
    loss = {t: replace(base.part(InfoNCE), temperature=t) for t in sorted({*LINEAR, base.part(InfoNCE).temperature})}
    return {f"{h}-T={t:g}": replace(base, head=head[h], loss=loss[t]) for h in head for t in loss}


SWEEP = Sweep(
    name="temperature",
    question="How does accuracy depend on the temperature T, with a linear and with an MLP head?",
    claim="the best T is lower with the linear head than with the MLP head",
    shape=(expect.order("mlp-T=0.2", "mlp-T=0.07"), expect.order("linear-T=0.07", "linear-T=0.2")),
    arms=arms,
    varies=("loss.temperature", "head.hidden"),
    baseline=lambda base: f"{'mlp' if base.part(Head).hidden else 'linear'}-T={base.part(InfoNCE).temperature:g}",
    axis="loss.temperature",
    factors=crossed("{head}-T={T}"),
    published={f"{h}-T={t:g}": v for h, row in (("linear", LINEAR), ("mlp", MLP)) for t, v in row.items()},
    published_source=PAPER_V2,
)

if __name__ == "__main__":
    main(SWEEP)
