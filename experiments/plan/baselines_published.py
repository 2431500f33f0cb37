"""Baselines on public data: recipes with published numbers, and close variants. The numbers are cited, not reproduced here.

Command of each: python -m experiments pretrain --baseline NAME. Here some training images are held out for choices; the
published numbers were trained on all of them.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.plan.registry import baseline
from moco.config import (
    LARS,
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

    Source: facebookresearch/moco, colab notebook; 82.6 % kNN (k = 200) after 200 epochs, about 70 minutes on a V100. Its
    first convolution has the initial weights of any new Conv2d, the parts of its BatchNorm are every eighth row, and its
    epochs count from one, so that the last one trains at learning rate 0: kept. Its symmetric form is
    `moco.methods.notebook_symmetric`. One run here with He's initial weights and neighbouring rows (until then this
    baseline), on JPEG copies and in bf16, reached 77.4 (analysis/LOG.md, 2026-11-27).
    The notebook trains on all 50,000 images; here the validation share is left out (set it as low as 0.001).
    What else differs: views are computed on float pixels, Pillow's on whole ones (`moco.augment`).
    """
    base = _cifar10()
    encoder = replace(base.part(ResNet), stem_init="torch", batch_norm_parts="interleaved")
    return replace(base, encoder=encoder)


def _cifar10() -> Config:
    """The notebook's recipe but for two details of its encoder: torchvision's initial weights, neighbours as parts."""
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
    """The notebook's data and optimiser with v2's MLP head, temperature and plain cosine; torchvision's initial weights.

    Source: ours, by analogy; no published number.
    """
    v1 = _cifar10()
    return replace(
        v1,
        head=Head(hidden=(0,), dim=128),
        loss=InfoNCE(0.2),
        optim=replace(v1.optim, schedule=Cosine()),
        evaluation=replace(v1.evaluation, knn_features="encoder"),
    )


@baseline
def cifar10_moco_v2plus() -> Config:
    """Symmetric v2 with two queues, ResNet-18, 1,000 epochs, fp16.

    Source: solo-learn, scripts/pretrain/cifar/mocov2plus.yaml: 92.94 % top-1 of a linear classifier that learns beside the
    encoder. Theirs is the warm-up from 3e-5, here from 0.
    """
    return solo_learn(_cifar10_v2plus())


def _cifar10_v2plus() -> Config:
    return replace(
        _of_cifar10(moco_v2plus()),
        head=Head(hidden=(2048,), dim=256),
        negatives=Queue(32_768),
        augment=replace(moco_v2plus().augment, crop_scale=(0.08, 1.0), mean=CIFAR10_MEAN, std=CIFAR10_STD),
    )


@baseline
def cifar10_moco_v3() -> Config:
    """MoCo v3's ResNet recipe at 32 pixels: ResNet-18, T 0.2, batch 256, 1,000 epochs, no blur, fp16, a LARS that clips.

    Source: solo-learn, scripts/pretrain/cifar/mocov3.yaml: 93.10 % top-1 of a linear classifier that learns beside the
    encoder. Theirs is the warm-up from 3e-5, here from 0.
    """
    base = _cifar10_v3()
    encoder = replace(base.part(ResNet), zero_init_residual=False)
    return solo_learn(replace(base, encoder=encoder, optim=replace(base.part(LARS), trust=0.02, adaptation="clipped")))


def _cifar10_v3() -> Config:
    v3 = moco_v3()
    return replace(
        _of_cifar10(v3),
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
    base = _cifar10_v3()
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
    """SimCLR with `cifar10_supcon`'s views and optimiser, in float32, with torchvision's initial weights.

    Source: ours, by analogy; no published number (solo-learn's SimCLR has another optimiser: 90.74 % linear top-1).
    """
    return replace(_cifar10_supcon(), loss=InfoNCE(0.2, symmetric=True))


@baseline
def cifar10_supcon() -> Config:
    """Supervised contrast, ResNet-18, 1,000 epochs, T 0.2, twice the colour jitter, BatchNorm over the whole batch, fp16.

    Source: solo-learn, scripts/pretrain/cifar/supcon.yaml: 93.82 % top-1 of a linear classifier that learns beside the
    encoder. Their loss adds the positives up inside the logarithm, which is not the paper's L_out. Theirs is the warm-up
    from 3e-5, here from 0.
    """
    base = _cifar10_supcon()
    return solo_learn(replace(base, loss=replace(base.part(InfoNCE), several="inside")))


def _cifar10_supcon() -> Config:
    base = _cifar10_v2plus()
    return replace(
        supcon(simclr(base)),
        loss=InfoNCE(0.2, symmetric=True, positives="label"),
        augment=replace(base.augment, jitter=(0.8, 0.8, 0.8, 0.2)),
        optim=replace(base.part(SGD), lr=0.4, weight_decay=1e-5),
    )


def solo_learn(recipe: Config) -> Config:
    """As solo-learn computes it: a first convolution of 3 x 3 with a border of two pixels and the initial weights of any new
    Conv2d (its `methods/base.py`), in fp16."""
    encoder = replace(recipe.part(ResNet), stem="padded", stem_init="torch")
    return replace(recipe, encoder=encoder, train=replace(recipe.train, precision="fp16"))


def _of_cifar10(method: Config) -> Config:
    """The method on CIFAR-10 as solo-learn runs it: ResNet-18, batch 256, 1,000 epochs."""
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
    """MoCo v3, ResNet-50, 100 epochs at batch 4096 in fp16 (arXiv:2104.02057; authors' README): 68.9 % linear top-1.

    16 V100 of 32 GB. 300 epochs: lr 0.3, 72.8 %; 1,000 epochs: lr 0.3, weight decay 1.5e-6, m 0.996, 74.6 %.
    """
    return imagenet(in_fp16(moco_v3()))


@baseline
def imagenet_moco_v3_vit_small() -> Config:
    """MoCo v3, ViT-Small with 12 heads, 300 epochs at batch 4096 in fp16 (arXiv:2104.02057; authors' README): 73.2 % linear
    top-1.

    32 V100 of 32 GB; the paper gives 1.2 h per 100 epochs on 256 TPU v3 cores.
    """
    return imagenet(in_fp16(moco_v3_vit()))


@baseline
def imagenet_moco_v3_vit_base() -> Config:
    """MoCo v3, ViT-Base, 300 epochs at batch 4096 in fp16 (arXiv:2104.02057; authors' README): 76.7 % linear top-1.

    64 V100 of 32 GB; the paper gives 24 h on 128 GPUs.
    """
    return imagenet(in_fp16(moco_v3_vit(encoder=VIT_BASE)))


def in_fp16(method: Config) -> Config:
    """As v3's authors train: under autocast in half precision, with a loss that is scaled (their main_moco.py)."""
    return replace(method, train=replace(method.train, precision="fp16"))


def imagenet(method: Config) -> Config:
    """1 % of the training images are held out for choices."""
    return replace(method, data=replace(method.data, validation_share=0.01))
