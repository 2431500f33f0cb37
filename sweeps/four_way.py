"""Supervised from scratch, or MoCo and then fine-tuned?  python sweeps/four_way.py  (4 arms x 5 seeds, four digit classes)

One label budget: 10 labels per class, 50 epochs of fine-tuning, lr chosen on validation images. `resnet` and `vit` start from
random weights, the others from MoCo on all the images without labels. Source: ours. Expect MoCo above its twins.
"""

from dataclasses import replace

from experiments import Sweep, expect, main
from moco.config import Config
from moco.methods import with_vit


def arms(base: Config) -> dict[str, Config]:
    resnet = replace(base, evaluation=replace(base.evaluation, finetune=True))
    twins = {"resnet": resnet, "vit": with_vit(resnet)}
    scratch = {name: replace(moco, train=replace(moco.train, epochs=0)) for name, moco in twins.items()}
    return {arm: c for name in twins for arm, c in ((name, scratch[name]), (f"moco_{name}", twins[name]))}


SWEEP = Sweep(
    name="four_way",
    question="With few labels, does MoCo help, with a ResNet and with a ViT?",
    claim="both MoCo arms above their twins",
    shape=(expect.order("moco_resnet", "resnet"), expect.order("moco_vit", "vit")),
    base="digits4",
    arms=arms,
    varies=("encoder", "key_encoder.shuffle", "optim", "train.epochs"),
    baseline="resnet",
    seeds=5,
    metric="finetune_top1",
)

if __name__ == "__main__":
    main(SWEEP)
