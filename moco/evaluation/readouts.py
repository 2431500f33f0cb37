"""The readouts of a frozen backbone: each protocol yields (key, value), the key as the journal has it, `test/linear_top1`.

Values are percent where the name says top1, top5 or recall. `test/` was measured on the test split and decided nothing;
`validation/` on the validation split, where every choice (learning rate, weight decay, strength) is made; `readout/` are
details: what was chosen, and the recall of each class of the test split. `None` is a value that does not exist, a class
without an image for instance; it never becomes 0.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from moco.config import Config, Evaluation
from moco.evaluation.features import Features, Labelled, extract_all, labelled
from moco.evaluation.few_label import few_label
from moco.evaluation.finetune import fine_tune
from moco.evaluation.knn import knn_scores, neighbours
from moco.evaluation.linear_probe import linear_probe
from moco.evaluation.paper_probe import paper_probe, random_crops
from moco.evaluation.scores import score
from moco.evaluation.unmoved import unmoved

if TYPE_CHECKING:
    from moco.data.images import ImageData
    from moco.model import Projector

Readout = tuple[str, float | None]
Value = TypeVar("Value", float, float | None)
Protocol = Callable[[Features, Evaluation, int], Iterator[Readout]]
KS = (20, 200)


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


def knn(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`knn20_top1`, `knn200_top1` of both splits; the bank is the training split. Nothing is drawn: the seed is not read.

    With fewer than k training images all of them vote, and `readout/knn<k>_neighbours` says how many that are.
    """
    source = projected(features) if evaluation.knn_features == "projection" else features
    for name, queries in (("validation", source.validation), ("test", source.test)):
        yield from knn_top1(name, source.train, queries, len(source.classes), evaluation.knn_temperature)
    for k in KS:
        if neighbours(k, len(source.train)) < k:
            yield f"readout/knn{k}_neighbours", float(neighbours(k, len(source.train)))


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


def few_labels(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`few_label_top1`, mean over the draws, and the strength of the regularisation that was chosen."""
    per_class, draws = evaluation.few_label_per_class, evaluation.few_label_draws
    splits = features.train, features.validation, features.test
    result = few_label(*splits, len(features.classes), per_class, draws, seed)
    yield "validation/few_label_top1", result.validation_top1
    yield "readout/few_label_strength", result.strength
    yield "test/few_label_top1", result.test_top1


def linear_paper(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`linear_paper_top1`, `linear_paper_top5`: the papers' own protocol, for comparison with their numbers."""
    if features.crops is None:
        raise ValueError(
            "linear_paper: needs the images, to crop them anew every epoch; evaluate a run, not its features"
        )
    layer = paper_probe(features.crops, len(features.classes), seed)
    with torch.no_grad():
        scores = score(layer(features.test.features_ND), features.test.labels_N)
    yield "test/linear_paper_top1", scores.top1
    yield "test/linear_paper_top5", scores.top5


def finetune(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """`finetune_top1` after the last epoch, the learning rate that was chosen, and the validation curve: the top-1 after
    epoch e is `validation/finetune_top1@e`, which `curves` takes apart."""
    if features.tune is None:
        raise ValueError("finetune: needs the images, to train on them; evaluate a run, not its features")
    tuned = features.tune()
    for epoch, top1 in enumerate(tuned.curve, start=1):
        yield f"validation/finetune_top1@{epoch}", top1
    yield "readout/finetune_lr", tuned.lr
    yield "test/finetune_top1", tuned.test.top1


PROTOCOLS: dict[str, Protocol] = {
    "knn": knn,
    "linear": linear,
    "few_label": few_labels,
    "finetune": finetune,
    "linear_paper": linear_paper,
}


def protocol(name: str) -> Protocol:
    """Errors: `ValueError` for a name that does not exist, with those that do."""
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.5)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"protocol {name}: there is no such protocol, the choices are {', '.join(PROTOCOLS)}{meant}")
    return PROTOCOLS[name]


def final_protocols(evaluation: Evaluation) -> tuple[str, ...]:
    more = {"finetune": evaluation.finetune, "linear_paper": evaluation.paper_protocol}
    return ("linear", "knn", "few_label", *(name for name, wanted in more.items() if wanted))


def final_readouts(features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
    """All readouts at the end of a run; `linear_paper` only if the config asks for it."""
    for name in final_protocols(evaluation):
        yield from PROTOCOLS[name](features, evaluation, seed)


def features_for(protocols: Sequence[str], query: Projector, data: ImageData, config: Config) -> Features:
    """What these protocols read, extracted once, on the device of the query encoder."""
    device = device_of(query)
    plain = extract_all(query.encoder, data, config.augment, device)
    if "knn" in protocols and config.evaluation.knn_features == "projection":
        plain = replace(plain, projected=extract_all(query, data, config.augment, device))
    if "linear_paper" in protocols:
        plain = replace(plain, crops=random_crops(query.encoder, data.train, config, device))
    if "finetune" in protocols:
        plain = replace(plain, tune=partial(fine_tune, query.encoder, data, config, device))
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
    with unmoved(query):
        features = features_for(final_protocols(config.evaluation), query, data, config)
        readouts = final_readouts(features, config.evaluation, config.train.seed)
        return {key: value for key, value in readouts if value is not None}


def validation_values(query: Projector, data: ImageData, config: Config) -> dict[str, float]:
    """kNN of the validation split, for a look during training; the test split is not touched."""
    module = query if config.evaluation.knn_features == "projection" else query.encoder
    with unmoved(query):
        bank, queries = (labelled(module, s, config.augment, device_of(query)) for s in (data.train, data.validation))
    readouts = knn_top1("validation", bank, queries, len(data.classes), config.evaluation.knn_temperature)
    return {key: value for key, value in readouts if value is not None}


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
