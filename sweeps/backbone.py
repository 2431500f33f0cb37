"""ViT or ResNet, and does freezing the patch projection help?  python sweeps/backbone.py  (7 arms x 3 seeds on the digits)

Chen et al. (arXiv:2104.02057, section 4.2): with ViT-B a frozen random patch projection gains 0.4, 0.6 and 1.7 points at
three rising lr, since spikes start in that layer. Expect no spike in a run of seconds.
"""

from dataclasses import replace

from experiments import Sweep, main
from moco.config import Config, ViT
from moco.methods import with_vit


def arms(base: Config) -> dict[str, Config]:
    frozen = {f"{lr:g}": with_vit(base, lr) for lr in (5e-4, 1e-3, 2e-3)}
    free = {lr: replace(c, encoder=replace(c.part(ViT), freeze_patch_projection=False)) for lr, c in frozen.items()}
    pairs = {f"vit-{name}-lr={lr}": c for lr in frozen for name, c in (("frozen", frozen[lr]), ("trained", free[lr]))}
    return {"resnet": base, **pairs}


SWEEP = Sweep(
    name="backbone",
    question="How do a ViT and a ResNet compare, and does freezing the patch projection matter?",
    claim="the frozen projection is as good or better, most so at the highest lr",
    arms=arms,
    varies=("encoder", "key_encoder.shuffle", "optim"),
    baseline="resnet",
)

if __name__ == "__main__":
    main(SWEEP)
