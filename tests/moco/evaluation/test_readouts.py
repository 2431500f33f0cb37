"""Oracles: scikit-learn's kNN and recall on the same features; splits that raise when they are touched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import recall_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from experiments.store import schema
from moco.config import Config, Data, Evaluation, Head, Momentum, ResNet, Train
from moco.data.splits import ImageData, Resident, Split
from moco.evaluation.features import Crops, Features, Labelled
from moco.evaluation.frozen import fingerprint
from moco.evaluation.linear_probe import linear_probe
from moco.evaluation.readouts import PROTOCOLS, features_for, final_readouts, final_values, protocol, validation_values
from moco.model import build_query
from moco.randomness import generator

EVALUATION = Evaluation(linear_epochs=5, few_label_draws=3, few_label_per_class=2)
CLASSES = ("cat", "dog", "eel")


def clouds(count: int, key: str) -> Labelled:
    g = generator("cpu", "readouts", key)
    labels_N = torch.arange(count) % 3
    return Labelled(torch.randn(count, 5, generator=g) + 1.5 * torch.eye(3, 5)[labels_N], labels_N)


def features() -> Features:
    return Features(clouds(120, "train"), clouds(45, "validation"), clouds(60, "test"), CLASSES)


def test_knn_is_scikit_learns_with_the_same_weights() -> None:
    feats = features()
    got = dict(PROTOCOLS["knn"](feats, EVALUATION, 0))
    bank_ND = F.normalize(feats.train.features_ND)
    for name, split in (("validation", feats.validation), ("test", feats.test)):
        for k, voters in ((20, 20), (200, 120)):
            model = KNeighborsClassifier(voters, weights=lambda d: torch.tensor(1 - d**2 / 2).div(0.1).exp().numpy())
            model.fit(bank_ND, feats.train.labels_N)
            expected = 100 * model.score(F.normalize(split.features_ND), split.labels_N)
            assert got[f"{name}/knn{k}_top1"] == pytest.approx(expected, abs=1e-9)
    assert got["readout/knn200_neighbours"] == 120.0
    assert "readout/knn20_neighbours" not in got


def test_linear_reports_recall_of_the_chosen_probe_and_misses_an_absent_class() -> None:
    feats = features()
    dogless_N = feats.test.labels_N != 1
    feats = replace(feats, test=Labelled(feats.test.features_ND[dogless_N], feats.test.labels_N[dogless_N]))
    got = dict(PROTOCOLS["linear"](feats, EVALUATION, 0))
    probe = linear_probe(feats.train, feats.validation, 3, 5, 0)
    predicted_N = probe.scores(feats.test.features_ND).argmax(1)
    recall = 100 * recall_score(feats.test.labels_N, predicted_N, labels=[0, 2], average=None)
    assert got["readout/linear_recall/dog"] is None
    assert [got[f"readout/linear_recall/{name}"] for name in ("cat", "eel")] == pytest.approx(list(recall))
    assert got["test/linear_macro_recall"] == pytest.approx(recall.mean())
    assert (got["readout/linear_lr"], got["readout/linear_weight_decay"]) == (probe.pair.lr, probe.pair.weight_decay)


def test_no_choice_looks_at_the_test_split() -> None:
    feats = features()
    other = replace(feats, test=clouds(33, "another test split"))
    first, second = (dict(final_readouts(f, EVALUATION, 0)) for f in (feats, other))
    chosen = [key for key in first if key.startswith(("validation/", "readout/")) and "recall" not in key]
    assert len(chosen) == 8
    assert [first[key] for key in chosen] == [second[key] for key in chosen]
    assert first["test/few_label_top1"] != second["test/few_label_top1"]


def test_an_unknown_protocol_is_one_line_with_the_choices() -> None:
    expected = (
        r"^protocol linaer: there is no .* linear, knn, few_label, few_label_1pct, few_label_10pct, retrieval, finetune, "
        r"finetune_frozen, linear_paper, linear_v3; did you mean linear\?$"
    )
    with pytest.raises(ValueError, match=expected):
        protocol("linaer")
    with pytest.raises(ValueError, match=r"linear_v3$"):
        protocol("zzz")
    assert protocol("knn") is PROTOCOLS["knn"]


def test_knn_on_the_projection_needs_one() -> None:
    evaluation = replace(EVALUATION, knn_features="projection")
    with pytest.raises(ValueError, match=r"set evaluation\.knn_features=encoder"):
        list(PROTOCOLS["knn"](features(), evaluation, 0))
    feats = replace(features(), projected=replace(features(), train=features().test))
    assert dict(PROTOCOLS["knn"](feats, evaluation, 0))["readout/knn200_neighbours"] == 60.0


def test_the_papers_probe_is_read_out_on_the_test_split() -> None:
    """Far apart clouds: every class is found, and a test split with the labels turned round is missed entirely."""
    centres_3D = 9.0 * torch.eye(3, 5)
    train = Labelled(centres_3D.repeat(30, 1), torch.arange(90) % 3)
    feats = Features(train, train, train, CLASSES, crops=Crops(nn.Identity(), lambda epoch: train))
    right = dict(PROTOCOLS["linear_paper"](feats, EVALUATION, 0))
    turned = replace(feats, test=Labelled(train.features_ND, (train.labels_N + 1) % 3))
    wrong = dict(PROTOCOLS["linear_paper"](turned, EVALUATION, 0))
    assert (right["test/linear_paper_top1"], wrong["test/linear_paper_top1"]) == (100.0, 0.0)
    with pytest.raises(ValueError, match=r"^linear_paper: needs the images"):
        list(PROTOCOLS["linear_paper"](features(), EVALUATION, 0))


@dataclass(frozen=True)
class Untouchable:
    """Images of a split that nobody may look at."""

    def __len__(self) -> int:
        return 12

    def take(self, indices_B: Tensor) -> Tensor:
        raise AssertionError(f"touched images {indices_B}")


def image_data() -> ImageData:
    def split(count: int, key: str) -> Split:
        labels_N = torch.arange(count) % 3
        noise_N3SS = torch.randint(0, 120, (count, 3, 8, 8), generator=generator("cpu", key))
        noise_N3SS[torch.arange(count), labels_N] += 60
        return Split(Resident(noise_N3SS.to(torch.uint8)), labels_N, torch.arange(count))

    train = split(60, "train")
    return ImageData(train, split(15, "validation"), split(24, "test"), train, CLASSES)


def config(knn_features: Literal["encoder", "projection"] = "encoder") -> Config:
    return Config(
        Data(image_size=8),
        encoder=ResNet(depth=8, width=4, stem="small"),
        head=Head(dim=6),
        train=Train(seed=2),
        key_encoder=Momentum(shuffle=False),
        evaluation=replace(EVALUATION, knn_features=knn_features),
    )


@pytest.mark.parametrize("knn_features", ["encoder", "projection"])
def test_the_values_of_a_run_are_the_readouts_of_its_features(
    knn_features: Literal["encoder", "projection"],
) -> None:
    cfg, data = config(knn_features), image_data()
    query = build_query(cfg, 10).train()
    before = fingerprint(query)
    got = final_values(query, data, cfg)
    feats = features_for(("knn", "linear", "few_label"), query, data, cfg)
    assert got == {key: value for key, value in final_readouts(feats, cfg.evaluation, 2) if value is not None}
    module = query.eval() if knn_features == "projection" else query.encoder.eval()
    kept = feats.projected if knn_features == "projection" else feats
    assert kept is not None
    recipe_mean, recipe_std = (torch.tensor(v)[:, None, None] for v in (cfg.augment.mean, cfg.augment.std))
    with torch.no_grad():
        expected_ND = module((data.test.images.take(torch.arange(24)) / 255 - recipe_mean) / recipe_std)
    torch.testing.assert_close(kept.test.features_ND, expected_ND, rtol=0, atol=1e-5)
    assert fingerprint(query) == before


def test_looking_during_training_never_touches_the_test_split() -> None:
    cfg, data = config(), image_data()
    query = build_query(cfg, 10)
    blind = replace(data, test=Split(Untouchable(), torch.zeros(12, dtype=torch.int64), torch.arange(12)))
    final = final_values(query, data, cfg)
    assert validation_values(query, blind, cfg) == {
        key: final[key] for key in ("validation/knn20_top1", "validation/knn200_top1")
    }
    assert query.training


def test_every_protocol_gives_its_headlines_and_every_headline_is_known_to_the_tables() -> None:
    cfg = replace(config(), evaluation=replace(EVALUATION, finetune_epochs=1, finetune_per_class=2))
    query = build_query(cfg, 10)
    before = fingerprint(query)
    feats = features_for(list(PROTOCOLS), query, image_data(), cfg)
    for name, one in PROTOCOLS.items():
        if name in ("linear_paper", "linear_v3"):  # a hundred epochs of crops; tested with their own oracle
            continue
        got = dict(one(feats, cfg.evaluation, 2))
        assert [key for key in one.headlines if got.get(f"test/{key}") is None] == [], name
        assert set(one.headlines) <= set(schema.READOUTS)
    assert {h for one in PROTOCOLS.values() for h in one.headlines} == set(schema.READOUTS)
    assert {f"test/{readout}" for readout in schema.READOUTS} <= set(schema.METRICS)
    assert fingerprint(query) == before


def test_without_a_protocol_that_reads_features_none_are_extracted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "other", replace(PROTOCOLS["knn"], reads_features=False))
    cfg = config()
    blind = Split(Untouchable(), torch.zeros(12, dtype=torch.int64), torch.arange(12))
    data = ImageData(blind, blind, blind, blind, CLASSES)
    feats = features_for(("other",), build_query(cfg, 10), data, cfg)
    assert (len(feats.train), feats.network is not None) == (0, True)
    with pytest.raises(AssertionError, match="touched images"):
        features_for(("other", "knn"), build_query(cfg, 10), data, cfg)
