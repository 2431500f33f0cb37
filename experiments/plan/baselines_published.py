"""Baselines on public data: recipes with published numbers, and close variants. The numbers are cited, not reproduced here.

Command of each: python -m experiments pretrain --baseline NAME. Here some training images are held out for choices; the
published numbers were trained on all of them.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.plan.registry import baseline
from moco.config import (
    SGD,
    Augment,
    Config,
    Cosine,
    Data,
    Evaluation,
    Head,
    InfoNCE,
    Momentum,
    Predictor,
    Queue,
    ResNet,
    Train,
    ViT,
)
from moco.methods import VIT_BASE, moco_v1, moco_v2, moco_v2plus, moco_v3, moco_v3_vit, simclr, supcon

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@baseline
def reduced_compute() -> Config:
    """Little compute: ResNet-18 with a head that narrows 512 -> 100 -> 50 -> 25, T 0.05, 50 epochs.

    Source: ours but for head and temperature, which users run so; data, views and optimiser of `cifar10_moco_v2`. No
    published number. At this temperature the explicit form of InfoNCE overflows in fp16 (`moco.losses`); ours does not.
    """
    v2 = cifar10_moco_v2()
    return replace(
        v2,
        head=Head(hidden=(100, 50), dim=25),
        loss=InfoNCE(0.05),
        train=replace(v2.train, epochs=50),
    )


@baseline
def cifar10_moco_v1() -> Config:
    """The authors' CIFAR-10 notebook, exactly: v1 head, no blur, SplitBatchNorm 8, kNN on the 128-d projection.

    Source: facebookresearch/moco, colab notebook; 82.6 % kNN (k = 200) after 200 epochs, about 70 minutes on a V100;
    one run here, on JPEG copies and in bf16, reached 77.4 (analysis/LOG.md, 2026-11-27). Its epochs
    count from one, so that the last one trains at learning rate 0: kept.
    The notebook trains on all 50,000 images; here the validation share is left out (set it as low as 0.001).
    """
    return Config(
        data=Data(name="cifar10", image_size=32),
        augment=Augment(
            crop_scale=(0.08, 1.0),
            grey=0.2,
            grey_first=False,
            jitter=(0.4, 0.4, 0.4, 0.1),
            jitter_probability=0.8,
            mean=CIFAR10_MEAN,
            std=(0.2023, 0.1994, 0.2010),
        ),
        encoder=ResNet(depth=18, stem="small", batch_norm_splits=8),
        head=Head(hidden=(), dim=128),
        key_encoder=Momentum(0.99, shuffle=True),
        negatives=Queue(4096),
        loss=InfoNCE(0.1),
        optim=SGD(lr=0.06, weight_decay=5e-4, schedule=Cosine(first_epoch=1)),
        train=Train(epochs=200, batch_size=512),
        evaluation=Evaluation(knn_every=10, knn_features="projection", knn_temperature=0.1),
    )


@baseline
def cifar10_moco_v2() -> Config:
    """The notebook's data, encoder and optimiser with v2's MLP head, temperature and plain cosine.

    Source: ours, by analogy; no published number.
    """
    v1 = cifar10_moco_v1()
    return replace(
        v1,
        head=Head(hidden=(0,), dim=128),
        loss=InfoNCE(0.2),
        optim=replace(v1.optim, schedule=Cosine()),
        evaluation=replace(v1.evaluation, knn_features="encoder"),
    )


@baseline
def cifar10_moco_v2plus() -> Config:
    """Symmetric v2 with two queues, ResNet-18, 1,000 epochs.

    Source: solo-learn, scripts/pretrain/cifar/mocov2plus.yaml: 92.94 % linear top-1; they train in fp16.
    """
    return replace(
        solo_learn(moco_v2plus()),
        head=Head(hidden=(2048,), dim=256),
        negatives=Queue(32_768),
        augment=replace(moco_v2plus().augment, crop_scale=(0.08, 1.0), mean=CIFAR10_MEAN, std=CIFAR10_STD),
    )


@baseline
def cifar10_moco_v3() -> Config:
    """MoCo v3's ResNet recipe at 32 pixels: ResNet-18, T 0.2, batch 256, 1,000 epochs, no blur.

    Source: solo-learn, scripts/pretrain/cifar/mocov3.yaml, which has 93.10 % linear top-1 with a LARS that also clips the
    rate of each layer; ours does not, so that no number is published for this one.
    """
    v3 = moco_v3()
    return replace(
        solo_learn(v3),
        augment=replace(
            v3.augment, crop_scale=(0.08, 1.0), blur=0.0, blur_second=None, mean=CIFAR10_MEAN, std=CIFAR10_STD
        ),
        encoder=ResNet(depth=18, stem="small", zero_init_residual=True),
        loss=InfoNCE(0.2, symmetric=True, factor=4.0),
        optim=replace(v3.optim, lr=0.3),
    )


@baseline
def cifar10_moco_v3_vit() -> Config:
    """MoCo v3 with a ViT-tiny (192 wide, 12 blocks, 3 heads) on patches of 4 pixels: 64 tokens, a narrower projector.

    Source: ours, by analogy with moco-v3's ViT-Small; no published number.
    """
    base = cifar10_moco_v3()
    vit = moco_v3_vit(base, ViT(width=192, depth=12, heads=3, patch=4))
    return replace(
        vit,
        augment=base.augment,
        head=replace(vit.part(Head), hidden=(1024, 1024)),
        predictor=replace(vit.part(Predictor), hidden=(1024,)),
        optim=replace(vit.optim, lr=5e-4),
    )


@baseline
def cifar10_simclr() -> Config:
    """`cifar10_supcon` without the labels: the positive is the image's own other view.

    Source: ours, by analogy; no published number (solo-learn's SimCLR has another optimiser: 90.74 % linear top-1).
    """
    return replace(cifar10_supcon(), loss=InfoNCE(0.2, symmetric=True))


@baseline
def cifar10_supcon() -> Config:
    """Supervised contrast, ResNet-18, 1,000 epochs, T 0.2, twice the colour jitter, BatchNorm over the whole batch.

    Source: solo-learn, scripts/pretrain/cifar/supcon.yaml: 93.82 % linear top-1; they train in fp16.
    """
    base = cifar10_moco_v2plus()
    return replace(
        supcon(simclr(base)),
        loss=InfoNCE(0.2, symmetric=True, positives="label"),
        augment=replace(base.augment, jitter=(0.8, 0.8, 0.8, 0.2)),
        optim=replace(base.part(SGD), lr=0.4, weight_decay=1e-5),
    )


def solo_learn(method: Config) -> Config:
    """The method as solo-learn runs CIFAR-10: ResNet-18, batch 256, 1,000 epochs."""
    return replace(
        method,
        data=Data(name="cifar10", image_size=32),
        encoder=ResNet(depth=18, stem="small"),
        train=Train(epochs=1000, batch_size=256),
        evaluation=Evaluation(knn_every=25),
    )


@baseline
def imagenet_moco_v1() -> Config:
    """MoCo v1, ResNet-50, 200 epochs (arXiv:1911.05722): 60.6 % linear top-1; 53 h on 8 V100 by the authors' README."""
    return imagenet(moco_v1())


@baseline
def imagenet_moco_v2() -> Config:
    """MoCo v2, ResNet-50, 200 epochs (arXiv:2003.04297): 67.5 % linear top-1; 53 h on 8 V100 by the authors' README."""
    return imagenet(moco_v2())


@baseline
def imagenet_moco_v3_resnet50() -> Config:
    """MoCo v3, ResNet-50, 100 epochs at batch 4096 (arXiv:2104.02057; authors' README): 68.9 % linear top-1.

    16 V100 of 32 GB in fp16. 300 epochs: lr 0.3, 72.8 %; 1,000 epochs: lr 0.3, weight decay 1.5e-6, m 0.996, 74.6 %.
    """
    return imagenet(moco_v3())


@baseline
def imagenet_moco_v3_vit_small() -> Config:
    """MoCo v3, ViT-Small with 12 heads, 300 epochs at batch 4096 (arXiv:2104.02057; authors' README): 73.2 % linear top-1.

    32 V100 of 32 GB in fp16; the paper gives 1.2 h per 100 epochs on 256 TPU v3 cores.
    """
    return imagenet(moco_v3_vit())


@baseline
def imagenet_moco_v3_vit_base() -> Config:
    """MoCo v3, ViT-Base, 300 epochs at batch 4096 (arXiv:2104.02057; authors' README): 76.7 % linear top-1.

    64 V100 of 32 GB in fp16; the paper gives 24 h on 128 GPUs.
    """
    return imagenet(moco_v3_vit(encoder=VIT_BASE))


def imagenet(method: Config) -> Config:
    """1 % of the training images are held out for choices."""
    return replace(method, data=replace(method.data, validation_share=0.01))
