"""Supervised from scratch, or MoCo and then fine-tuned?  python sweeps/four_way.py  (4 arms x 5 seeds, four digit classes)

One label budget: 10 labels per class, 50 epochs of fine-tuning, lr chosen on validation images. `resnet` and `vit` start from
random weights, the others from MoCo on all the images without labels. Source: ours. Expect MoCo above its twins.
"""

from dataclasses import replace

from experiments.launch.cli import main
from experiments.plan.sweep import Sweep, shape
from experiments.store import schema
from moco.config import Config
from moco.methods import with_vit


def arms(base: Config) -> dict[str, Config]:
    resnet = replace(base, evaluation=replace(base.evaluation, finetune=True))
    twins = {"resnet": resnet, "vit": with_vit(resnet)}
    scratch = {name: replace(moco, train=replace(moco.train, epochs=0)) for name, moco in twins.items()}
    return {arm: c for name in twins for arm, c in ((name, scratch[name]), (f"moco_{name}", twins[name]))}


SWEEP = Sweep(
    name="four_way",
    base="digits4",
    question="With few labels, does MoCo help, with a ResNet and with a ViT?",
    seeds=5,
    claim="both MoCo arms above their twins",
    shape=(shape.order("moco_resnet", "resnet"), shape.order("moco_vit", "vit")),
    arms=arms,
    baseline="resnet",
    varies=("encoder", "key_encoder.shuffle", "optim", "train.epochs"),
    metric=schema.FINETUNE,
)
if __name__ == "__main__":
    main(SWEEP)
