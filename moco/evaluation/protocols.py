"""Which readouts there are. Imports no torch: a protocol's code is imported when it is run.

A new one is a line in `PROTOCOLS`, a function (features, evaluation, seed) -> (key, value) pairs, and a line in
`experiments.store.schema.READOUTS` for each headline, so that journals, tables and MLflow know it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moco.config import Evaluation
    from moco.evaluation.features import Features

Readout = tuple[str, float | None]


@dataclass(frozen=True)
class Protocol:
    """A way to judge a representation. Called, it yields (key, value): `test/linear_top1` and whatever belongs to it.

    `headlines` are its readouts of the test split that tables know: a run that has the first has been judged in this way.
    `reads_features`: of the three splits; a protocol with images of its own needs none, and none are then extracted.
    """

    module: str
    function: str
    headlines: tuple[str, ...]
    what: str
    reads_features: bool = True

    def __call__(self, features: Features, evaluation: Evaluation, seed: int) -> Iterator[Readout]:
        readouts: Iterator[Readout] = getattr(import_module(self.module), self.function)(features, evaluation, seed)
        return readouts


HERE = "moco.evaluation.readouts"
RETRIEVAL = ("retrieval_map", "retrieval_recall1", "retrieval_recall5", "retrieval_recall10")

PROTOCOLS: dict[str, Protocol] = {
    "knn": Protocol(HERE, "knn", ("knn20_top1", "knn200_top1"), "vote of the 20 and the 200 nearest"),
    "linear": Protocol(HERE, "linear", ("linear_top1",), "linear probe, the best of 48 on validation images"),
    "few_label": Protocol(HERE, "few_labels", ("few_label_top1",), "linear probe on n labels of each class"),
    "few_label_1pct": Protocol(HERE, "one_percent", ("few_label_1pct_top1",), "the same on 1 % of the labels"),
    "few_label_10pct": Protocol(HERE, "ten_percent", ("few_label_10pct_top1",), "the same on 10 % of the labels"),
    "retrieval": Protocol(HERE, "retrieval", RETRIEVAL, "test images ask, training images are ranked: mAP, recall@k"),
    "finetune": Protocol(
        HERE,
        "finetune",
        ("finetune_top1",),
        "the whole network trained on n labels of each class",
        reads_features=False,
    ),
    "finetune_frozen": Protocol(
        HERE,
        "finetune_frozen",
        ("finetune_frozen_top1",),
        "the same with the encoder frozen: the classifier alone",
        reads_features=False,
    ),
    "linear_paper": Protocol(HERE, "linear_paper", ("linear_paper_top1",), "the papers' probe of v1 and v2: lr 30"),
    "linear_v3": Protocol(HERE, "linear_v3", ("linear_v3_top1",), "the papers' probe of v3"),
}


def protocol(name: str) -> Protocol:
    """Errors: `ValueError` for a name that does not exist, with those that do."""
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.5)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"protocol {name}: there is no such protocol, the choices are {', '.join(PROTOCOLS)}{meant}")
    return PROTOCOLS[name]
