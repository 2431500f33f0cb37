"""Where should negatives come from?  python sweeps/negatives_source.py  (8 arms x 3 seeds on the digits)

He et al. (arXiv:1911.05722, Fig. 3): alike at equal K, but a batch cannot grow to 65,536, where the memory bank stays 2.6
points under MoCo (58.0 against 60.6). End to end, K is the batch, and lr grows with it.
"""

from dataclasses import replace

from experiments import PAPER_V1, Sweep, main, training_images
from moco.config import Config, Queue
from moco.methods import end_to_end, memory_bank, with_batch


def arms(base: Config) -> dict[str, Config]:
    small = training_images(base.data) < 10_000
    sizes, batches = ((128, 512, 1024), (128, 512)) if small else ((1024, 4096, 16384, 65536), (256, 512, 1024))
    queues = {f"moco-K={k}": replace(base, negatives=Queue(k)) for k in sizes}
    banks = {f"bank-K={k}": memory_bank(base, k) for k in sizes}
    return queues | banks | {f"e2e-K={k}": end_to_end(with_batch(base, k)) for k in batches}


SWEEP = Sweep(
    name="negatives_source",
    question="At equal K, do negatives from the batch, a memory bank or a queue differ?",
    claim="alike at small K",
    arms=arms,
    varies=("negatives", "key_encoder", "train.batch_size", "optim.lr"),
    baseline="moco-K=1024",
    published={"bank-K=65536": 58.0, "moco-K=4096": 59.0, "moco-K=16384": 60.4, "moco-K=65536": 60.6},
    published_source=PAPER_V1,
)

if __name__ == "__main__":
    main(SWEEP)
