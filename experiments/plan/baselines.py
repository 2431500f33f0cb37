"""Baselines that run anywhere: digits, shapes, your own images. A docstring gives source, command, cost, expected result.

python -m experiments pretrain --baseline NAME [--set FIELD=VALUE ...]
python sweeps/queue_size.py --baseline NAME
"""

from __future__ import annotations

from dataclasses import replace

from experiments.plan.proposal import proposes
from experiments.plan.registry import baseline
from moco.config import (
    SGD,
    AdamW,
    Augment,
    Config,
    Cosine,
    Data,
    Evaluation,
    Head,
    InfoNCE,
    Momentum,
    Queue,
    ResNet,
    Train,
)
from moco.data.catalog import Look
from moco.methods import AUGMENT_V1, moco_v2


@baseline
def digits() -> Config:
    """MoCo v1 on the 1,797 digits that scikit-learn ships: no download, seconds a run. The default of every sweep.

    Source: ours, after the authors' CIFAR-10 notebook, chosen on validation images (analysis/LOG.md). Colours mean nothing
    here and a flipped digit is another digit, so views are crops, small rotations, brightness, contrast and noise.
    Command: python sweeps/momentum.py. Cost: about 23 s a run on one core. Expect (test split, n = 3): linear 98.2 +- 0.4,
    kNN (k = 20) 97.8 +- 0.6, 5 labels per class 91.6 +- 0.5; untrained 89.0, 91.2 and 67.6.
    """
    return Config(
        data=Data(name="digits", image_size=16),
        augment=Augment(
            crop_scale=(0.55, 1.0),
            crop_ratio=(1.0, 1.0),
            grey=0.0,
            jitter=(0.4, 0.4, 0.0, 0.0),
            flip=0.0,
            rotation=15.0,
            noise=0.05,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        encoder=ResNet(depth=8, stem="strided", width=16, batch_norm_splits=8),
        head=Head(hidden=(), dim=64),
        key_encoder=Momentum(0.99, shuffle=True),
        negatives=Queue(1024),
        loss=InfoNCE(0.1),
        optim=SGD(lr=0.24, weight_decay=1e-3, schedule=Cosine()),
        train=Train(epochs=40, batch_size=128),
        evaluation=Evaluation(knn_every=10),
    )


@baseline
def digits4() -> Config:
    """The first four classes of the digits (518 training images) for comparisons with few labels: a queue they can fill.

    Source: ours, the digits' recipe with more epochs for fewer images. Command: python sweeps/four_way.py.
    """
    base = digits()
    return replace(
        base,
        data=replace(base.data, name="digits4"),
        negatives=Queue(256),
        train=Train(epochs=80, batch_size=64),
        optim=replace(base.optim, lr=base.optim.lr / 2),
    )


@baseline
def shapes() -> Config:
    """MoCo v1 on drawn shapes whose colour, place, size and light are nuisances: no download; separates augmentations.

    Source: ours, chosen on validation images (analysis/LOG.md). Command: python sweeps/head_and_augmentation.py.
    Cost: about 100 s a run on one core. Expect about 93 kNN (k = 20) and 97 linear on validation images (n = 1).
    """
    base = digits()
    return replace(
        base,
        data=Data(name="shapes", image_size=32),
        augment=AUGMENT_V1,
        encoder=ResNet(depth=8, stem="strided", width=16, batch_norm_splits=8),
        negatives=Queue(256),
        optim=AdamW(lr=0.002, weight_decay=0.01, schedule=Cosine()),
        train=Train(epochs=30, batch_size=64),
    )


@baseline
def folder() -> Config:
    """Your own images: `--baseline folder --set data.root=DIR`, DIR holding train/<class>/* and val/<class>/*.

    With `data.root` it looks at the images first, and proposes encoder, image size, batch, queue and epochs for their number,
    their size and the device; what it proposes is printed, and --set changes any of it (`for_images`). Without, and for
    `evaluate`, MoCo v2 with ResNet-18 at 64 pixels, untuned, which is all that it was before.
    """
    return replace(
        moco_v2(),
        data=Data(name="folder", image_size=64),
        encoder=ResNet(depth=18, stem="strided", batch_norm_splits=8),
        key_encoder=Momentum(0.99, shuffle=True),
        negatives=Queue(256),
        loss=InfoNCE(0.1),
        optim=SGD(lr=0.03, weight_decay=5e-4, schedule=Cosine()),
        train=Train(epochs=100, batch_size=64),
    )


@proposes(folder)
def for_images(look: Look, gpu: bool) -> Config:
    """What `folder` proposes: a linear head, T 0.07 and v2's views, because colours and blur mean something in photographs.

    On a CPU ResNet-8 of width 16 at 32 pixels (64 for pictures from 64 pixels on), 160,000 views of images; on a GPU ResNet-18
    at up to 128 pixels, nine million. Epochs follow from the number of images, from 10 to 400; a queue holds an eighth of
    them or less.

    Source: ours. On 4,500 CIFAR-10 images as JPEG (validation, n = 2, one CPU, 40 epochs): kNN (k = 20) 42.8, linear 43.7;
    untrained 26.1 and 31.0. v1's views instead of v2's: 36.1 where these have 40.3 at 15 epochs. On a GPU: not measured; the
    learning rate for a batch is that of MoCo v1 (arXiv:1911.05722, section 4.1).
    """
    side = _image_side(look.side, (32, 64, 96, 128) if gpu else (32, 64))
    batch = min(256 if gpu else 64, max(16, _power_of_two(look.images / 4)))
    epochs = round((9_000_000 if gpu else 160_000) / look.images)
    encoder = ResNet(depth=18, stem="small" if side <= 64 else "imagenet", batch_norm_splits=8)
    return replace(
        moco_v2(),
        data=Data(name="folder", image_size=side),
        encoder=encoder if gpu else ResNet(depth=8, stem="strided", width=16, batch_norm_splits=8),
        head=Head(hidden=(), dim=128),
        key_encoder=Momentum(0.99, shuffle=True),
        negatives=Queue(min(65_536, max(16, _power_of_two(look.images / 8)))),
        loss=InfoNCE(0.07),
        optim=SGD(lr=0.03 * batch / 256 if gpu else 0.06 * batch / 64, weight_decay=5e-4, schedule=Cosine()),
        train=Train(epochs=min(400, max(10, epochs)), batch_size=batch),
    )


def _image_side(side: int, choices: tuple[int, ...]) -> int:
    """The largest of the choices that the pictures fill, or the least of them."""
    return max((choice for choice in choices if choice <= side), default=choices[0])


def _power_of_two(most: float) -> int:
    """The largest that is not above `most`; 1 at least."""
    return 1 << max(0, int(most).bit_length() - 1)
