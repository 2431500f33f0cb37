"""The published methods, each written as its difference from another, the way the papers say it.

Every method after the first takes the config it differs from: `moco_v2()` is the paper's, `moco_v2(base)` the same change on
a base of yours. `mechanism_of` takes only what contrasts from a method, so that arms share data, views and optimiser.
"""

from __future__ import annotations

from dataclasses import replace

from moco.config import (
    LARS,
    SGD,
    Absent,
    AdamW,
    Augment,
    BothViews,
    Classifier,
    Config,
    Cosine,
    CrossEntropy,
    Data,
    Head,
    InBatch,
    InfoNCE,
    MemoryBank,
    Momentum,
    Predictor,
    Queue,
    ResNet,
    Shared,
    Step,
    Train,
    ViT,
)

AUGMENT_V1 = Augment()
AUGMENT_V2 = Augment(grey_first=False, jitter=(0.4, 0.4, 0.4, 0.1), jitter_probability=0.8, blur=0.5)
AUGMENT_V3 = replace(AUGMENT_V2, jitter=(0.4, 0.4, 0.2, 0.1), blur=1.0, blur_second=0.1, solarize_second=0.2)

VIT_TINY = ViT(width=192, depth=12, heads=3)
VIT_SMALL = ViT(width=384, depth=12, heads=12)
VIT_BASE = ViT(width=768, depth=12, heads=12)
VIT_LARGE = ViT(width=1024, depth=24, heads=16)


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


def moco_v2(base: Config | None = None) -> Config:
    """MoCo v2 (arXiv:2003.04297): v1 with an MLP head, T 0.2, stronger augmentation and a cosine schedule."""
    v1 = base or moco_v1()
    return replace(
        v1,
        head=Head(hidden=(0,), dim=128),
        loss=InfoNCE(0.2),
        augment=AUGMENT_V2,
        optim=replace(v1.optim, schedule=Cosine()),
    )


def moco_v2plus(base: Config | None = None) -> Config:
    """Symmetric v2 (SimSiam paper, arXiv:2011.10566, table 4; solo-learn's mocov2plus): a queue per view, m 0.99 -> 0.999,
    256 dimensions, no shuffling."""
    v2 = base or moco_v2()
    return replace(
        v2,
        head=Head(hidden=(0,), dim=256),
        loss=replace(v2.part(InfoNCE), symmetric=True),
        key_encoder=Momentum(0.99, ramp_to=0.999, shuffle=False),
        encoder=together(v2.encoder),
        optim=SGD(lr=0.3, weight_decay=1e-4, schedule=Cosine(warmup_epochs=10, per_step=True), scaling="linear"),
    )


def notebook_symmetric(base: Config) -> Config:
    """The base with the symmetric loss of the authors' CIFAR notebook: the sum of both directions, one queue that the keys
    of both views enter, a permutation for each direction. The sum has twice the gradient of v2+'s mean."""
    keys = base.part(Momentum)
    return replace(
        base,
        loss=replace(base.part(InfoNCE), symmetric=True, directions="sum"),
        negatives=replace(base.part(Queue), shared=True),
        key_encoder=replace(keys, shuffle_apart=keys.shuffle),
    )


def moco_v3(base: Config | None = None) -> Config:
    """MoCo v3 (arXiv:2104.02057; recipe of the authors' repository for 100 epochs): ResNet-50, no queue, a predictor,
    the sum of both directions times 2T at T 1, m 0.99 -> 1, LARS."""
    v2plus = base or moco_v2plus()
    return replace(
        v2plus,
        augment=AUGMENT_V3,
        encoder=replace(v2plus.encoder, zero_init_residual=True)
        if isinstance(v2plus.encoder, ResNet)
        else v2plus.encoder,
        head=Head(hidden=(4096,), dim=256, norm=True, last_norm=True),
        predictor=Predictor(hidden=(4096,), last_norm=False),
        key_encoder=Momentum(0.99, ramp_to=1.0, shuffle=False),
        negatives=InBatch(),
        loss=InfoNCE(1.0, symmetric=True, factor=4.0),
        optim=LARS(lr=0.6, weight_decay=1e-6, schedule=Cosine(warmup_epochs=10, per_step=True), scaling="linear"),
        train=replace(v2plus.train, epochs=100, batch_size=4096),
    )


def moco_v3_vit(base: Config | None = None, encoder: ViT = VIT_SMALL) -> Config:
    """MoCo v3 with a vision transformer, 300 epochs: T 0.2, deeper projector, AdamW with weight decay 0.1 on everything,
    the random patch projection frozen (section 4.2)."""
    v3 = base or moco_v3()
    return replace(
        v3,
        augment=replace(AUGMENT_V3, crop_scale=(0.08, 1.0)),
        encoder=encoder,
        head=Head(hidden=(4096, 4096), dim=256, norm=True, last_norm=True),
        predictor=Predictor(hidden=(4096,), last_norm=True),
        loss=InfoNCE(0.2, symmetric=True, factor=4.0),
        optim=AdamW(lr=1.5e-4, weight_decay=0.1, schedule=Cosine(warmup_epochs=40, per_step=True), scaling="linear"),
        train=replace(v3.train, epochs=300),
    )


def end_to_end(base: Config | None = None) -> Config:
    """v1's ablation (section 4.1, fig. 3): keys from the same encoder, with gradients; the batch is the dictionary."""
    v1 = base or moco_v1()
    shuffle = isinstance(v1.key_encoder, Momentum) and v1.key_encoder.shuffle
    return replace(v1, key_encoder=Shared(shuffle=shuffle), negatives=InBatch())


def memory_bank(base: Config | None = None, size: int = 65_536) -> Config:
    """v1's ablation (section 4.1, fig. 3): a stored embedding per image in place of keys (InstDisc, arXiv:1805.01978)."""
    return replace(base or moco_v1(), key_encoder=Absent(), negatives=MemoryBank(size, momentum=0.5))


def simclr(base: Config | None = None) -> Config:
    """SimCLR (arXiv:2002.05709): both views of the batch are candidates and queries; BatchNorm over the whole batch."""
    v2 = base or moco_v2()
    return replace(
        v2,
        encoder=together(v2.encoder),
        key_encoder=Shared(),
        negatives=BothViews(),
        loss=InfoNCE(0.5, symmetric=True),
    )


def supcon(base: Config | None = None) -> Config:
    """Supervised contrast (arXiv:2004.11362, L_out): SimCLR whose positives are all images of the class, at T 0.1."""
    return replace(base or simclr(), loss=InfoNCE(0.1, symmetric=True, positives="label"))


def supervised(base: Config | None = None) -> Config:
    """Cross entropy from scratch on the labels of the training images; encoder, views and optimiser of the base."""
    return replace(
        base or moco_v2(),
        head=Classifier(),
        predictor=Absent(),
        key_encoder=Absent(),
        negatives=Absent(),
        loss=CrossEntropy(),
    )


def together(encoder: ResNet | ViT) -> ResNet | ViT:
    """BatchNorm over the whole batch, over all GPUs (SyncBN)."""
    if isinstance(encoder, ViT):
        return encoder
    return replace(encoder, batch_norm_splits=1, batch_norm_parts="contiguous")


def mechanism_of(method: Config, base: Config) -> Config:
    """What contrasts as in `method` (key encoder, negatives, loss, predictor, BatchNorm's parts), the rest of `base`.

    Sizes are the base's: dimension and temperature, the length of a queue, hidden layers as wide as the features.
    """
    encoder, head, dim = base.encoder, method.part(Head), base.part(Head).dim
    if isinstance(encoder, ResNet):
        encoder = replace(encoder, batch_norm_splits=method.encoder.batch_norm_splits)
    predictor = method.predictor
    if isinstance(predictor, Predictor):
        predictor = replace(predictor, hidden=tuple(dim for _ in predictor.hidden))
    return replace(
        base,
        encoder=encoder,
        head=replace(head, hidden=tuple(0 for _ in head.hidden), dim=dim),
        predictor=predictor,
        key_encoder=method.key_encoder,
        negatives=base.negatives if isinstance(method.negatives, Queue) else method.negatives,
        loss=replace(method.part(InfoNCE), temperature=base.part(InfoNCE).temperature),
    )


def vit_for(image_size: int) -> ViT:
    """A vision transformer of a size, with a patch, that suits the images: the largest patch that leaves 7 tokens a side."""
    if image_size <= 16:
        return ViT(width=64, depth=4, heads=4, patch=4)
    fitting = (p for p in (16, 8, 4, 2, 1) if image_size % p == 0 and image_size // p >= 7)
    return replace(VIT_TINY if image_size <= 64 else VIT_SMALL, patch=next(fitting))


def with_vit(base: Config, lr: float | None = None) -> Config:
    """The base with a transformer: AdamW as v3 has it, and no BatchNorm to split or shuffle."""
    keys = base.key_encoder
    return replace(
        base,
        encoder=vit_for(base.data.image_size),
        key_encoder=replace(keys, shuffle=False) if isinstance(keys, Momentum | Shared) else keys,
        optim=AdamW(lr=lr or 1e-3, weight_decay=0.05, schedule=Cosine(warmup_epochs=5, per_step=True)),
    )


def with_batch(base: Config, batch_size: int, power: float = 1.0) -> Config:
    """Another batch; lr follows it in proportion (Goyal et al., arXiv:1706.02677), or by that power of the ratio."""
    lr = base.optim.lr * (batch_size / base.train.batch_size) ** power
    return replace(base, train=replace(base.train, batch_size=batch_size), optim=replace(base.optim, lr=lr))
