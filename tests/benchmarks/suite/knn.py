"""Exact k-nearest-neighbour voting over a large bank: ours scatters votes, the usual way makes a one-hot table of them.

N bank images, Q queries, D features, C classes, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.evaluation.features import Labelled
from moco.evaluation.knn import knn_scores
from moco.randomness import generator
from tests.benchmarks.peak import extra_bytes
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result, compared
from tests.benchmarks.rounds import Contender, clock_of, interleave

SPREAD = 3.0  # of a class around its centre of unit variance: neighbours of several classes vote
TEMPERATURE = 0.1
MIB = 2**20
Predict = Callable[[], Tensor]


@benchmark(
    "exact kNN predictions; with many classes, then with few",
    {"bank": 50_000, "queries": 256, "dim": 128, "k": 200, "classes": 1_000, "few_classes": 10},
)
def run(options: Options) -> list[Result]:
    return [
        one(options, options.whole("classes"), wanted=3.0),
        one(options, options.whole("few_classes"), wanted=None),  # top-k dominates: nothing to win, and we say so
    ]


def one(options: Options, classes: int, wanted: float | None) -> Result:
    bank, queries_QD = clusters(options, classes)
    ours, peer = predictors(options, bank, queries_QD, classes)
    measured = interleave(
        [Contender("ours", ours, len(queries_QD)), Contender(options.against, peer, len(queries_QD))],
        options.rounds,
        clock_of(options.device),
    )
    equal = int((ours() == peer()).sum())
    notes = (f"{equal} of {len(queries_QD)} predictions are identical", *memory_note(ours, peer, options.device))
    return compared(
        f"knn, {classes:,} classes",
        measured,
        "ours",
        options.against,
        "queries",
        options,
        wanted=wanted,
        notes=notes,
        identical=equal,
    )


def memory_note(ours: Predict, peer: Predict, device: str) -> tuple[str, ...]:
    mine, theirs = extra_bytes(ours, device), extra_bytes(peer, device)
    if mine is None or theirs is None:
        return ()
    return (f"memory above the start: ours {mine / MIB:,.0f} MiB, peer {theirs / MIB:,.0f} MiB",)


def clusters(options: Options, classes: int) -> tuple[Labelled, Tensor]:
    """A bank of unit features around the centres of their classes, and queries of the same law."""
    draw = generator("cpu", "benchmark", "knn", classes)
    bank, queries, dim = (options.whole(name) for name in ("bank", "queries", "dim"))
    centres_CD = torch.randn(classes, dim, generator=draw)
    labels = torch.randint(0, classes, (bank + queries,), generator=draw)
    features = F.normalize(centres_CD[labels] + SPREAD * torch.randn(bank + queries, dim, generator=draw))
    features, labels = features.to(options.device), labels.to(options.device)
    return Labelled(features[:bank], labels[:bank]), features[bank:]


def predictors(options: Options, bank: Labelled, queries_QD: Tensor, classes: int) -> tuple[Predict, Predict]:
    k = min(options.whole("k"), len(bank))
    bank_DN = bank.features_ND.T.contiguous()  # as both peers want it; made outside the clock

    def ours() -> Tensor:
        return knn_scores(bank, queries_QD, classes, [k], TEMPERATURE)[k].argmax(dim=1)

    def peer() -> Tensor:
        if options.against == "lightly":
            from tests.benchmarks.peers.lightly_readouts import predict

            return predict(queries_QD, bank_DN, bank.labels_N, classes, k, TEMPERATURE)
        return one_hot_votes(queries_QD @ bank_DN, bank.labels_N, classes, k).argmax(dim=1)

    return ours, peer


def one_hot_votes(similarity_QN: Tensor, labels_N: Tensor, classes: int, k: int) -> Tensor:
    """(Q, C): the usual way, a row of C for every neighbour of every query."""
    similarity_QK, index_QK = similarity_QN.topk(k, dim=1)
    member_QKC = F.one_hot(labels_N[index_QK], classes).to(similarity_QK.dtype)
    return (member_QKC * (similarity_QK / TEMPERATURE).exp()[:, :, None]).sum(dim=1)
