"""How many negatives does MoCo need?  python sweeps/queue_size.py  (4 arms x 3 seeds on the digits: minutes on 2 cores)

He et al. (arXiv:1911.05722, Fig. 3) raise K to 65,536 on ImageNet and see no loss; the authors' CIFAR-10 notebook finds
saturation at 4,096. K never exceeds the training images: of the digits' 1,293 a queue of 1,024 holds most, so expect a
shorter one to do as well there or better.
"""

from dataclasses import replace

from experiments import PAPER_V1, Sweep, expect, main, training_images
from moco.config import Config, Queue


def sizes_for(base: Config) -> list[int]:
    images = training_images(base.data)
    powers = (2**n for n in range(7 if images < 10_000 else 10, 17))
    return sorted({base.part(Queue).size, *(k for k in powers if k <= images)})


SWEEP = Sweep(
    name="queue_size",
    question="How does linear top-1 grow with the number of negatives K?",
    shape=(expect.rises(), expect.saturates()),
    arms=lambda base: {f"K={k}": replace(base, negatives=Queue(k)) for k in sizes_for(base)},
    varies=("negatives.size",),
    baseline=lambda base: f"K={base.part(Queue).size}",
    axis="negatives.size",
    published={"K=4096": 59.0, "K=16384": 60.4, "K=65536": 60.6},
    published_source=PAPER_V1,
)

if __name__ == "__main__":
    main(SWEEP)
