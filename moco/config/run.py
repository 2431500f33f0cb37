"""A run, fully described, and the mixes of its parts that contradict themselves."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

from moco.config.data import Augment, Data
from moco.config.evaluation import Evaluation
from moco.config.fields import require
from moco.config.kinds import fit, group_classes, type_hints
from moco.config.method import (
    Absent,
    Classifier,
    CrossEntropy,
    Head,
    InBatch,
    InfoNCE,
    KeyEncoder,
    Momentum,
    Negatives,
    Predictor,
    Queue,
    ResNet,
    Shared,
    ViT,
)
from moco.config.training import LARS, SGD, AdamW, Train

Part = TypeVar("Part")


def kind(part: object) -> str:
    return type(part).__name__.lower()


@dataclass(frozen=True)
class Config:
    """One run, fully described."""

    data: Data = Data()
    augment: Augment = Augment()
    encoder: ResNet | ViT = ResNet()
    head: Head | Classifier = Head()
    predictor: Absent | Predictor = Absent()
    key_encoder: KeyEncoder = Momentum()
    negatives: Negatives = Queue()
    loss: InfoNCE | CrossEntropy = InfoNCE()
    optim: SGD | AdamW | LARS = SGD()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()

    def __post_init__(self) -> None:
        self._check_batch_norm()
        if isinstance(self.encoder, ViT):
            _check_patches(self.encoder, self.data.image_size)
        if isinstance(self.loss, CrossEntropy):
            self._check_supervised()
        else:
            self._check_contrast(self.loss)
        self._check_accumulation()

    def part(self, wanted: type[Part]) -> Part:
        """The group that is a `wanted`. Raises ValueError, with the kind it is instead, where there is none."""
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), wanted):
                return value
        kinds = {name: group_classes(annotation).values() for name, annotation in type_hints(Config).items()}
        name = next(name for name, classes in kinds.items() if wanted in classes)
        raise ValueError(
            f"{name} = {kind(getattr(self, name))}: {wanted.__name__.lower()} is needed here; "
            f"choose another baseline or --set {name}={wanted.__name__.lower()}"
        )

    @property
    def both_views(self) -> bool:
        """Does a step see two views of each image?"""
        return not isinstance(self.key_encoder, Absent)

    @property
    def needs_labels(self) -> str:
        """The field that asks for labels of the images to pre-train on, with its value; empty if none does."""
        if isinstance(self.loss, CrossEntropy):
            return "loss = crossentropy"
        return "loss.positives = label" if self.loss.positives == "label" else ""

    def _check_batch_norm(self) -> None:
        splits, batch = self.encoder.batch_norm_splits, self.train.batch_size
        require(
            batch % splits == 0,
            f"train.batch_size = {batch} and encoder.batch_norm_splits = {splits}: the batch must divide into equal parts",
        )
        require(
            batch // splits >= 2,
            f"train.batch_size = {batch} and encoder.batch_norm_splits = {splits}: "
            "BatchNorm needs 2 images or more in each part",
        )
        require(
            splits > 1 or not getattr(self.key_encoder, "shuffle", False),
            f"key_encoder.shuffle = True and encoder.batch_norm_splits = {splits}: shuffling without splitting BatchNorm "
            "changes nothing on one device; set encoder.batch_norm_splits=8 or key_encoder.shuffle=false",
        )

    def _check_supervised(self) -> None:
        for name, part, wanted in (
            ("head", self.head, Classifier),
            ("key_encoder", self.key_encoder, Absent),
            ("negatives", self.negatives, Absent),
            ("predictor", self.predictor, Absent),
        ):
            require(
                isinstance(part, wanted),
                f"loss = crossentropy and {name} = {kind(part)}: supervised training contrasts nothing; "
                f"set {name}={wanted.__name__.lower()}",
            )

    def _check_contrast(self, loss: InfoNCE) -> None:
        require(
            isinstance(self.negatives, Negatives)
            and fit(type(self.key_encoder), type(self.negatives))
            and not isinstance(self.negatives, Absent),
            f"key_encoder = {kind(self.key_encoder)} and negatives = {kind(self.negatives)}: {self._fitting_negatives()}",
        )
        require(
            isinstance(self.head, Head), "head = classifier and loss = infonce: set head=head, or loss=crossentropy"
        )
        require(
            loss.symmetric or not getattr(self.key_encoder, "shuffle_apart", False),
            "key_encoder.shuffle_apart = True and loss.symmetric = False: there is one direction; set loss.symmetric=true "
            "or key_encoder.shuffle_apart=false",
        )
        self._check_predictor(loss)
        self.negatives.check(loss)

    def _fitting_negatives(self) -> str:
        """`REASON; negatives=queue or negatives=inbatch`."""
        keys = type(self.key_encoder)
        fitting = [
            f"negatives={name}"
            for name, negatives in group_classes(Negatives).items()
            if fit(keys, negatives) and negatives is not Absent
        ]
        others = "" if isinstance(self.key_encoder, Momentum) else ", or key_encoder=momentum"
        return f"{self.key_encoder.reason}; {' or '.join(fitting)}{others}"

    def _check_predictor(self, loss: InfoNCE) -> None:
        require(
            isinstance(self.predictor, Absent)
            or (isinstance(self.key_encoder, Momentum) and isinstance(self.negatives, InBatch)),
            f"predictor = predictor with key_encoder = {kind(self.key_encoder)} and negatives = {kind(self.negatives)}: "
            "a predictor is defined for MoCo v3 only (a momentum encoder, in-batch keys); set predictor=absent",
        )

    def _check_accumulation(self) -> None:
        parts, splits = self.train.accumulate, self.encoder.batch_norm_splits
        if parts == 1:
            return
        require(
            not isinstance(self.key_encoder, Shared),
            f"train.accumulate = {parts} and key_encoder = shared: every query needs the gradients of all keys of its "
            "batch at once; set train.accumulate=1",
        )
        require(
            isinstance(self.encoder, ViT) or splits % parts == 0,
            f"train.accumulate = {parts} and encoder.batch_norm_splits = {splits}: each part of the batch is normalised "
            "apart; batch_norm_splits must be a multiple of accumulate",
        )
        require(
            isinstance(self.encoder, ViT) or self.encoder.batch_norm_parts == "contiguous",
            f"train.accumulate = {parts} and encoder.batch_norm_parts = interleaved: every part of BatchNorm has rows of the "
            "whole batch; set train.accumulate=1 or encoder.batch_norm_parts=contiguous",
        )
        require(
            isinstance(self.predictor, Absent)
            and not (isinstance(self.head, Head) and (self.head.norm or self.head.last_norm))
            and getattr(self.encoder, "stem", "") != "conv",
            f"train.accumulate = {parts} and BatchNorm over the whole batch in the head, predictor or conv stem: "
            "set train.accumulate=1",
        )


def _check_patches(encoder: ViT, side: int) -> None:
    require(
        side % encoder.patch == 0,
        f"encoder.patch = {encoder.patch} and data.image_size = {side}: the patch must divide the image; "
        f"choose encoder.patch from {', '.join(str(p) for p in range(1, side + 1) if side % p == 0 and 2 <= p <= 32)}",
    )


# What a config must be for a run that is spread over several processes. Imports no torch: asked before anything
# starts.


def check_processes(config: Config, count: int) -> None:
    """Raises ValueError if `count` processes cannot compute what one would."""
    if count == 1:
        return
    batch, parts, over = config.train.batch_size, config.train.accumulate, f"over {count} processes"
    cut = f" in {parts} parts (train.accumulate)" if parts > 1 else ""
    require(
        batch % (count * parts) == 0,
        f"train.batch_size = {batch} {over}{cut}: must divide equally; choose a multiple of {count * parts}",
    )
    splits = config.encoder.batch_norm_splits
    require(
        isinstance(config.encoder, ViT) or splits == 1 or splits % (count * parts) == 0,
        f"encoder.batch_norm_splits = {splits} {over}{cut}: each process normalises whole parts; choose a multiple of "
        f"{count * parts}, or 1 for one BatchNorm over all (SyncBN)",
    )
    require(
        isinstance(config.encoder, ViT) or splits == 1 or config.encoder.batch_norm_parts == "contiguous",
        f"encoder.batch_norm_parts = interleaved {over}: every part has rows of all of them; set "
        "encoder.batch_norm_parts=contiguous, or use one process",
    )
    symmetric = isinstance(config.loss, InfoNCE) and config.loss.symmetric
    require(
        not (symmetric and getattr(config.key_encoder, "shuffle", False)),
        f"loss.symmetric = True and key_encoder.shuffle = True {over}: each view would have to be rendered on two of them; "
        "set key_encoder.shuffle=false, or use one process",
    )
