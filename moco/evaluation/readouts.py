"""The readouts of a frozen backbone: each protocol yields (key, value), the key as the journal has it, `test/linear_top1`.

Values are percent where the name says top1, top5 or recall. `test/` was measured on the test split and decided nothing;
`validation/` on the validation split, where every choice (learning rate, weight decay, strength) is made; `readout/` are
details: what was chosen, and the recall of each class of the test split. `None` is a value that does not exist, a class
without an image for instance; it never becomes 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from moco.config import Config, Evaluation
from moco.errors import UnusableFeatures
from moco.evaluation.features import Features, Labelled, Network, check_network, check_usable, extract_all, labelled
from moco.evaluation.few_label import few_label, stratified
from moco.evaluation.finetune import FineTuned, blocks_of, fine_tune
from moco.evaluation.frozen import unmoved
from moco.evaluation.knn import knn_scores, neighbours
from moco.evaluation.linear_probe import linear_probe
from moco.evaluation.paper_probe import V1, Recipe, paper_probe, random_crops, v3
from moco.evaluation.pauses import once
from moco.evaluation.protocols import PROTOCOLS, Metric, Protocol, Readout, always, protocol, protocols, readout
from moco.evaluation.retrieval import KS as PLACES
from moco.evaluation.retrieval import missing_classes, retrieve
from moco.evaluation.scores import score

if TYPE_CHECKING:
    from moco.data.splits import ImageData
    from moco.model import Projector

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "Readout",
    "curves",
    "features_for",
    "final_protocols",
    "final_readouts",
    "final_values",
    "protocol",
    "validation_values",
]

LOGGER = logging.getLogger("moco")
Value = TypeVar("Value", float, float | None)
KS = (20, 200)


@readout(
    "linear",
    Metric(
        "linear_top1",
        title="linear top-1",
        meaning="percent, at the end; learning rate and weight decay chosen on the validation split",
        when="at_end",
    ),
    what="linear probe, the best of 48 on validation images",
    at_end=always,
)
def linear(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`linear_top1`, `linear_top5`, `linear_macro_recall`, the recall of each class, and the pair that was chosen."""
    classes = len(features.classes)
    probe = linear_probe(features.train, features.validation, classes, evaluation.linear_epochs, seed)
    yield "validation/linear_top1", probe.validation_top1
    yield "readout/linear_lr", probe.pair.lr
    yield "readout/linear_weight_decay", probe.pair.weight_decay
    scores = score(probe.scores(features.test.features_ND), features.test.labels_N)
    yield "test/linear_top1", scores.top1
    yield "test/linear_top5", scores.top5
    yield "test/linear_macro_recall", scores.macro_recall
    for name, recall in zip(features.classes, scores.recall, strict=True):
        yield f"readout/linear_recall/{name}", recall


@readout(
    "knn",
    Metric(
        "knn20_top1",
        title="kNN-20",
        meaning="percent, at the end, k = 20",
        when="at_end",
        curve="percent, during training, on the images held out of train",
    ),
    Metric("knn200_top1", title="kNN-200", meaning="percent, at the end, k = 200", when="at_end"),
    what="vote of the 20 and the 200 nearest",
    at_end=always,
)
def knn(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`knn20_top1`, `knn200_top1` of both splits; the bank is the training split. Nothing is drawn: the seed is not read.

    With fewer than k training images all of them vote, and `readout/knn<k>_neighbours` says how many that are. If the test
    images are all of one class, which any answer gets right, `readout/test_classes` is 1.
    """
    source = projected(features) if evaluation.knn_features == "projection" else features
    for name, queries in (("validation", source.validation), ("test", source.test)):
        yield from knn_top1(name, source.train, queries, len(source.classes), evaluation.knn_temperature)
    for k in KS:
        if neighbours(k, len(source.train)) < k:
            yield f"readout/knn{k}_neighbours", float(neighbours(k, len(source.train)))
    present = len(source.test.labels_N.unique())
    if present < 2:
        yield "readout/test_classes", float(present)


def knn_top1(split: str, bank: Labelled, queries: Labelled, classes: int, temperature: float) -> Iterator[Readout]:
    scores = knn_scores(bank, queries.features_ND, classes, KS, temperature)
    for k in KS:
        yield f"{split}/knn{k}_top1", score(scores[k], queries.labels_N).top1


def projected(features: Features) -> Features:
    if features.projected is None:
        raise ValueError(
            "evaluation.knn_features = projection: these features have no projection head; "
            "evaluate a run that kept its head, or set evaluation.knn_features=encoder"
        )
    return features.projected


@readout(
    "few_label",
    Metric(
        "few_label_top1", title="few-label", meaning="percent, at the end, from a few labels per class", when="at_end"
    ),
    what="linear probe on n labels of each class",
    at_end=always,
)
def few_labels(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`few_label_top1`, mean over the draws, and the strength of the regularisation that was chosen.

    If a class has fewer labels than were asked for, `readout/few_label_least` says how many the smallest one gives.
    """
    images_C = torch.bincount(features.train.labels_N.cpu())
    least = int(images_C[images_C > 0].min()) if len(images_C) else 0
    if least < evaluation.few_label_per_class:
        yield "readout/few_label_least", float(least)
    yield from _few("few_label", features, evaluation, seed, evaluation.few_label_per_class)


@readout(
    "few_label_1pct",
    Metric(
        "few_label_1pct_top1", title="1 % labels", meaning="percent, from 1 % of the labels, at least one per class"
    ),
    what="the same on 1 % of the labels",
)
def one_percent(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`few_label_1pct_top1`, and how many labels that are (`share_of_labels`)."""
    yield from share_of_labels("few_label_1pct", 0.01, features, evaluation, seed)


@readout(
    "few_label_10pct",
    Metric("few_label_10pct_top1", title="10 % labels", meaning="percent, from 10 % of the labels"),
    what="the same on 10 % of the labels",
)
def ten_percent(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`few_label_10pct_top1`, and how many labels that are (`share_of_labels`)."""
    yield from share_of_labels("few_label_10pct", 0.1, features, evaluation, seed)


def share_of_labels(
    name: str, share: float, features: Features, evaluation: Evaluation, seed: int
) -> Iterator[Readout]:
    """As `few_labels`, on a stratified share. A class that has less than one label in it gives one: `_raised` of them."""
    labels_C, images_C = stratified(features.train.labels_N, share), torch.bincount(features.train.labels_N.cpu())
    raised, present = int((images_C * share < 1)[images_C > 0].sum()), int((images_C > 0).sum())
    if raised:
        LOGGER.warning(
            "%s: %g %% of the images of a class is less than one in %d of %d classes; they give one, %d labels of %d in all",
            name,
            100 * share,
            raised,
            present,
            int(labels_C.sum()),
            len(features.train),
        )
    yield f"readout/{name}_labels", float(labels_C.sum())
    yield f"readout/{name}_raised", float(raised)
    yield from _few(name, features, evaluation, seed, labels_C)


def _few(
    name: str, features: Features, evaluation: Evaluation, seed: int, per_class: int | torch.Tensor
) -> Iterator[Readout]:
    splits = features.train, features.validation, features.test
    result = few_label(*splits, len(features.classes), per_class, evaluation.few_label_draws, seed)
    yield f"validation/{name}_top1", result.validation_top1
    yield f"readout/{name}_strength", result.strength
    yield f"test/{name}_top1", result.test_top1


@readout(
    "retrieval",
    Metric(
        "retrieval_map",
        title="retrieval mAP",
        meaning="mean average precision, percent; test images ask, the training images are ranked by cosine",
    ),
    Metric(
        "retrieval_recall1",
        title="retrieval R@1",
        meaning="percent of test images whose nearest training image is of their class",
        when="detail",
    ),
    Metric(
        "retrieval_recall5",
        title="retrieval R@5",
        meaning="percent with one of their class among the nearest 5",
        when="detail",
    ),
    Metric(
        "retrieval_recall10",
        title="retrieval R@10",
        meaning="percent with one of their class among the nearest 10",
        when="detail",
    ),
    what="test images ask, training images are ranked: mAP, recall@k",
)
def retrieval(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`retrieval_map`, `retrieval_recall1`, `5`, `10` of both splits; the gallery is the training split. Nothing is drawn.

    `readout/retrieval_within_test_*`: the test split in itself, each image without itself, as metric learning has it;
    images that are the only one of their class there do not ask.

    Errors: `ValueError` for a split without an image, and for a gallery without a class that is asked for.
    """
    for name, queries in (("validation", features.validation), ("test", features.test)):
        check_gallery(name, queries, features)
        found = retrieve(queries, features.train)
        yield f"{name}/retrieval_map", found.mean_average_precision
        for place, k in enumerate(PLACES):
            yield f"{name}/retrieval_recall{k}", found.recall(place)
    within = retrieve(features.test, features.test)
    yield "readout/retrieval_within_test_map", within.mean_average_precision
    yield "readout/retrieval_within_test_recall1", within.recall(0)


def check_gallery(split: str, queries: Labelled, features: Features) -> None:
    if not len(queries):
        raise ValueError(f"retrieval: 0 {split} images ask; raise data.validation_share or add images")
    missing = missing_classes(queries, features.train)
    if missing:
        names = ", ".join(features.classes[c] for c in missing[:5]) + (", ..." if len(missing) > 5 else "")
        asking = int(torch.isin(queries.labels_N.cpu(), torch.tensor(missing)).sum())
        raise ValueError(
            f"retrieval: the gallery, {len(features.train)} training images, has none of {len(missing)} classes ({names}) "
            f"that {asking} {split} images are of; add some, or leave those out"
        )


@readout(
    "finetune",
    Metric(
        "finetune_top1",
        title="fine-tuned",
        meaning="percent, after fine-tuning on a few labels; learning rate chosen on the validation split",
        when="on_request",
        curve="percent, after each epoch of fine-tuning on a few labels, if it is asked for",
    ),
    what="the whole network trained on n labels of each class",
    reads_features=False,
    at_end=lambda evaluation: evaluation.finetune,
)
def finetune(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`finetune_top1` after the last epoch, the setting that was chosen, and the validation curve: the top-1 after
    epoch e is `validation/finetune_top1@e`, which `curves` takes apart."""
    yield from _tuned("finetune", features, frozen=False)


@readout(
    "finetune_frozen",
    Metric(
        "finetune_frozen_top1",
        title="fine-tuned, frozen",
        meaning="percent, a classifier trained on a few labels over the frozen encoder, with augmentation",
        curve="percent, after each epoch of the same with a frozen encoder",
    ),
    what="the same with the encoder frozen: the classifier alone",
    reads_features=False,
)
def finetune_frozen(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """As `finetune`, with the encoder kept as it is."""
    yield from _tuned("finetune_frozen", features, frozen=True)


def _tuned(name: str, features: Features, *, frozen: bool) -> Iterator[Readout]:
    network = features.network
    if network is None:
        raise ValueError(f"{name}: needs the images, to train on them; evaluate a run, not its features")
    check_network(network.query.encoder, network.data.test, network.config.augment, network.device)
    tuned: FineTuned = fine_tune(network.query.encoder, network.data, network.config, network.device, frozen=frozen)
    for epoch, top1 in enumerate(tuned.curve, start=1):
        yield f"validation/{name}_top1@{epoch}", top1
    yield f"readout/{name}_lr", tuned.setting.lr
    if tuned.setting.layer_decay is not None:
        yield f"readout/{name}_layer_decay", tuned.setting.layer_decay
    yield f"test/{name}_top1", tuned.test.top1


@readout(
    "linear_paper",
    Metric(
        "linear_paper_top1",
        title="linear, lr 30",
        meaning="percent, the protocol of the v1 and v2 papers: lr 30 on the features as they are",
    ),
    what="the papers' probe of v1 and v2: lr 30",
    reads_crops=True,
    at_end=lambda evaluation: evaluation.paper_protocol,
)
def linear_paper(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`linear_paper_top1`, `linear_paper_top5`: the protocol of v1 and v2, for comparison with their numbers."""
    yield from _paper("linear_paper", features, seed, V1)


@readout(
    "linear_v3",
    Metric("linear_v3_top1", title="linear, v3's", meaning="percent, the protocol of the v3 paper"),
    what="the papers' probe of v3",
    reads_crops=True,
)
def linear_v3(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`linear_v3_top1`, `linear_v3_top5`: the protocol of v3."""
    transformer = features.network is not None and blocks_of(features.network.query.encoder) > 0
    yield from _paper("linear_v3", features, seed, v3(len(features.train), transformer=transformer))


def _paper(name: str, features: Features, seed: int, recipe: Recipe) -> Iterator[Readout]:
    if features.crops is None:
        raise ValueError(f"{name}: needs the images, to crop them anew every epoch; evaluate a run, not its features")
    layer = paper_probe(features.crops, len(features.classes), seed, recipe=recipe)
    with torch.no_grad():
        scores = score(layer(features.test.features_ND), features.test.labels_N)
    yield f"test/{name}_top1", scores.top1
    yield f"test/{name}_top5", scores.top5


def final_protocols(evaluation: Evaluation) -> tuple[str, ...]:
    """Those that training ends with, in the order of their definition."""
    return tuple(name for name, one in protocols().items() if one.at_end(evaluation))


def final_readouts(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """All readouts at the end of a run; `linear_paper` only if the config asks for it."""
    for name in final_protocols(evaluation):
        yield from PROTOCOLS[name](features, evaluation, seed)


def features_for(wanted: Sequence[str], query: Projector, data: ImageData, config: Config) -> Features:
    """What these protocols read, extracted once, on the device of the query encoder."""
    device = device_of(query)
    if any(protocol(name).reads_features for name in wanted):
        plain = extract_all(query.encoder, data, config.augment, device)
    else:
        nothing = Labelled(torch.zeros(0, 0, device=device), torch.zeros(0, dtype=torch.int64, device=device))
        plain = Features(nothing, nothing, nothing, data.classes)
    plain = replace(plain, network=Network(query, data, config, device))
    if "knn" in wanted and config.evaluation.knn_features == "projection":
        plain = replace(plain, projected=extract_all(query, data, config.augment, device))
    if any(protocol(name).reads_crops for name in wanted):
        plain = replace(plain, crops=random_crops(query.encoder, data.train, config, device))
    return plain


def curves(values: dict[str, Value]) -> tuple[dict[str, Value], dict[int, dict[str, Value]]]:
    """The values that stand alone, and those of curves, `name@epoch`, by epoch."""
    alone = {key: value for key, value in values.items() if "@" not in key}
    by_epoch: dict[int, dict[str, Value]] = {}
    for key, value in values.items():
        name, at, epoch = key.partition("@")
        if at:
            by_epoch.setdefault(int(epoch), {})[name] = value
    return alone, by_epoch


def final_values(query: Projector, data: ImageData, config: Config) -> dict[str, float]:
    """`final_readouts` of a trained network; a value that does not exist is absent. The network is left to the bit."""
    wanted = final_protocols(config.evaluation)

    @cache
    def features() -> Features:  # not at all if every readout was finished in an earlier attempt
        return features_for(wanted, query, data, config)

    def values_of(name: str) -> dict[str, float]:
        readouts = PROTOCOLS[name](features(), config.evaluation, config.train.seed)
        return {key: value for key, value in readouts if value is not None}

    with unmoved(query):
        return {key: value for name in wanted for key, value in once(name, partial(values_of, name)).items()}


def validation_values(query: Projector, data: ImageData, config: Config) -> dict[str, float]:
    """kNN of the validation split, during training; the test split is not touched. Nothing, with a warning, where the features
    are unusable: training goes on and may recover."""
    module = query if config.evaluation.knn_features == "projection" else query.encoder
    with unmoved(query):
        bank, queries = (labelled(module, s, config.augment, device_of(query)) for s in (data.train, data.validation))
    try:
        check_usable({"training": bank.features_ND, "validation": queries.features_ND})
    except UnusableFeatures as error:
        LOGGER.warning("%s", error)
        return {}
    readouts = knn_top1("validation", bank, queries, len(data.classes), config.evaluation.knn_temperature)
    return {key: value for key, value in readouts if value is not None}


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
