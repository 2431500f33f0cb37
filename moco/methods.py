"""The published methods, each written as its difference from another, the way the papers say it."""

from __future__ import annotations

from dataclasses import replace

from moco.config import SGD, Augment, Config, Cosine, Data, Head, InfoNCE, Momentum, Queue, ResNet, Step, Train

AUGMENT_V1 = Augment()
AUGMENT_V2 = Augment(grey_first=False, jitter=(0.4, 0.4, 0.4, 0.1), jitter_probability=0.8, blur=0.5)


def moco_v1() -> Config:
    """MoCo v1 on ImageNet (arXiv:1911.05722, section 4.1): ResNet-50, linear head, K 65,536, m 0.999, T 0.07.

    The authors' 8 GPUs x 32 images are 8 parts of BatchNorm here, so that shuffling means the same on one device.
    """
    return Config(
        data=Data(name="imagenet", image_size=224, stream=True, workers=16),
        augment=AUGMENT_V1,
        encoder=ResNet(depth=50, batch_norm_splits=8),
        head=Head(hidden=(), dim=128),
        key_encoder=Momentum(0.999, shuffle=True),
        negatives=Queue(65_536),
        loss=InfoNCE(0.07),
        optim=SGD(lr=0.03, weight_decay=1e-4, momentum=0.9, schedule=Step((120, 160))),
        train=Train(epochs=200, batch_size=256),
    )


def moco_v2() -> Config:
    """MoCo v2 (arXiv:2003.04297): v1 with an MLP head, T 0.2, stronger augmentation and a cosine schedule."""
    v1 = moco_v1()
    return replace(
        v1,
        head=Head(hidden=(0,), dim=128),
        loss=InfoNCE(0.2),
        augment=AUGMENT_V2,
        optim=replace(v1.optim, schedule=Cosine()),
    )
