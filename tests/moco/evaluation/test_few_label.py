"""Oracles: scikit-learn's logistic regression on each subset and strength, and counting."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import moco.evaluation.few_label as fl
from moco.config import Evaluation
from moco.evaluation.features import Features, Labelled
from moco.evaluation.linear_probe import Standardiser, standardiser
from moco.evaluation.readouts import PROTOCOLS
from moco.randomness import generator

CLASSES = 4


def clouds(count: int, key: str) -> Labelled:
    """Four overlapping Gaussian clouds in 6 dimensions, of unlike scales."""
    g = generator("cpu", "clouds", key)
    labels_N = torch.randint(0, CLASSES, (count,), generator=g)
    centres_CD = torch.randn(CLASSES, 6, generator=generator("cpu", "centres"), dtype=torch.float64)
    noise_ND = torch.randn(count, 6, generator=g, dtype=torch.float64)
    return Labelled((centres_CD[labels_N] + noise_ND) * torch.tensor([1, 5, 0.1, 1, 1, 2.0]) + 3.0, labels_N)


def logistic_regression(inputs_ME: Tensor, labels_M: Tensor, strength: float) -> LogisticRegression:
    """scikit-learn minimises C x sum of losses + |W|^2 / 2; the bias is a column of the inputs."""
    model = LogisticRegression(C=1 / (strength * len(labels_M)), fit_intercept=False, tol=1e-10, max_iter=5000)
    return model.fit(inputs_ME, labels_M)


def test_weights_are_those_of_scikit_learn() -> None:
    train = clouds(300, "train")
    standardise = standardiser(train.features_ND)
    rows_SM = torch.stack([fl.subset(train.labels_N, 5, 0, draw) for draw in range(3)])
    inputs_SME = standardise(train.features_ND[rows_SM.flatten()]).unflatten(0, rows_SM.shape)
    weights_SECR = fl.fit(inputs_SME, train.labels_N[rows_SM], CLASSES, fl.STRENGTHS)
    for draw in range(3):
        for r, strength in enumerate(fl.STRENGTHS):
            expected = logistic_regression(inputs_SME[draw], train.labels_N[rows_SM[draw]], strength).coef_.T
            torch.testing.assert_close(weights_SECR[draw, :, :, r], torch.tensor(expected), rtol=0, atol=1e-4)


def test_more_features_than_images_give_the_same_minimum() -> None:
    """The curvature is then read off the images' Gram matrix, the smaller one."""
    inputs_1ME = torch.randn(1, 12, 40, generator=generator("cpu", "wide"), dtype=torch.float64)
    labels_1M = torch.arange(12)[None] % CLASSES
    weights_ECR = fl.fit(inputs_1ME, labels_1M, CLASSES, [0.1])[0]
    expected = logistic_regression(inputs_1ME[0], labels_1M[0], 0.1).coef_.T
    torch.testing.assert_close(weights_ECR[:, :, 0], torch.tensor(expected), rtol=0, atol=1e-4)


def slow_few_label(splits: tuple[Labelled, Labelled, Labelled], draws: int, seed: int) -> tuple[float, float, float]:
    train, *others = splits
    standardise: Standardiser = standardiser(train.features_ND)
    means = {}
    for strength in fl.STRENGTHS:
        top1 = torch.zeros(2, dtype=torch.float64)
        for draw in range(draws):
            rows_M = fl.subset(train.labels_N, 3, seed, draw)
            model = logistic_regression(standardise(train.features_ND[rows_M]), train.labels_N[rows_M], strength)
            for row, split in enumerate(others):
                top1[row] += 100 * model.score(standardise(split.features_ND), split.labels_N) / draws
        means[strength] = top1.tolist()
    chosen = max(means, key=lambda strength: (means[strength][0], strength))
    return chosen, *means[chosen]


@pytest.mark.parametrize("numbers", [2**28, 1])
def test_the_readout_is_that_of_a_slow_loop(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    """All draws at once, and one draw at a time in the least memory."""
    splits = clouds(200, "train"), clouds(90, "validation"), clouds(120, "test")
    monkeypatch.setattr(fl, "MOST_NUMBERS", numbers)
    got = fl.few_label(*splits, CLASSES, per_class=3, draws=4, seed=1)
    expected = slow_few_label(splits, draws=4, seed=1)
    assert (got.strength, got.validation_top1, got.test_top1) == pytest.approx(expected, abs=1e-9)


def test_subsets_are_stratified_without_repeats_and_grow_by_adding() -> None:
    labels_N = torch.randint(0, 10, (500,), generator=generator("cpu", "labels"))
    for draw in range(4):
        five, three = (fl.subset(labels_N, n, 3, draw) for n in (5, 3))
        assert torch.bincount(labels_N[five]).tolist() == [5] * 10
        assert len(set(five.tolist())) == 50
        assert set(three.tolist()) < set(five.tolist())


def test_subsets_are_a_function_of_seed_and_draw_alone() -> None:
    labels_N = torch.arange(200) % 10
    first = fl.subset(labels_N, 2, 3, 0)
    torch.manual_seed(99)
    torch.rand(7)
    assert torch.equal(first, fl.subset(labels_N.clone(), 2, 3, 0))
    assert not torch.equal(first, fl.subset(labels_N, 2, 3, 1))
    assert not torch.equal(first, fl.subset(labels_N, 2, 4, 0))


def test_a_class_with_fewer_images_gives_all_it_has() -> None:
    labels_N = torch.tensor([0] * 9 + [1] * 2 + [2] * 9)
    rows_M = fl.subset(labels_N, 5, 0, 0)
    assert torch.bincount(labels_N[rows_M]).tolist() == [5, 2, 5]
    assert {9, 10} < set(rows_M.tolist())


def test_no_validation_image_is_an_error() -> None:
    train = clouds(50, "train")
    nothing = Labelled(train.features_ND[:0], train.labels_N[:0])
    with pytest.raises(ValueError, match=r"^0 validation images: "):
        fl.few_label(train, nothing, train, CLASSES, 2, 2, 0)


def test_a_share_is_stratified_and_at_least_one_label() -> None:
    """By hand: round(c / 100), and one where that is none."""
    labels_N = torch.repeat_interleave(torch.arange(5), torch.tensor([340, 150, 149, 7, 0]))
    labels_N = torch.cat((labels_N, torch.full((20,), 5)))
    assert fl.stratified(labels_N, 0.01).tolist() == [3, 2, 1, 1, 0, 1]
    assert fl.stratified(labels_N, 0.1).tolist() == [34, 15, 15, 1, 0, 2]
    rows_M = fl.subset(labels_N, fl.stratified(labels_N, 0.1), 3, 0)
    assert torch.bincount(labels_N[rows_M], minlength=6).tolist() == [34, 15, 15, 1, 0, 2]


def test_one_percent_is_part_of_ten_percent_of_the_same_draw_whatever_the_features() -> None:
    labels_N = torch.randint(0, 10, (2_000,), generator=generator("cpu", "labels"))
    for draw in range(3):
        one, ten = (fl.subset(labels_N, fl.stratified(labels_N, share), 5, draw) for share in (0.01, 0.1))
        assert set(one.tolist()) < set(ten.tolist())
        again = fl.subset(labels_N, fl.stratified(labels_N, 0.01), 5, draw)  # labels and seed: nothing of an arm
        assert torch.equal(one, again)
    assert not torch.equal(*(fl.subset(labels_N, fl.stratified(labels_N, 0.01), seed, 0) for seed in (5, 6)))


def splits() -> Features:
    return Features(clouds(230, "train"), clouds(90, "validation"), clouds(120, "test"), ("a", "b", "c", "d"))


@pytest.mark.parametrize(("name", "share"), [("few_label_1pct", 0.01), ("few_label_10pct", 0.1)])
def test_the_protocols_are_scikit_learns_on_that_share(name: str, share: float) -> None:
    feats, draws = splits(), 3
    got = dict(PROTOCOLS[name](feats, Evaluation(few_label_draws=draws), 7))
    per_class = fl.stratified(feats.train.labels_N, share)
    standardise, top1 = standardiser(feats.train.features_ND), 0.0
    for draw in range(draws):
        rows_M = fl.subset(feats.train.labels_N, per_class, 7, draw)
        inputs_ME, labels_M = standardise(feats.train.features_ND[rows_M]), feats.train.labels_N[rows_M]
        model = logistic_regression(inputs_ME, labels_M, float(got[f"readout/{name}_strength"] or 0))
        top1 += 100 * model.score(standardise(feats.test.features_ND), feats.test.labels_N) / draws
    assert got[f"test/{name}_top1"] == pytest.approx(top1, abs=1e-9)
    assert got[f"readout/{name}_labels"] == int(per_class.sum())


def test_it_says_so_where_one_percent_is_less_than_a_label_per_class(caplog: pytest.LogCaptureFixture) -> None:
    feats = splits()
    images_C = torch.bincount(feats.train.labels_N)
    raised = int((images_C < 100).sum())
    assert raised > 0
    got = dict(PROTOCOLS["few_label_1pct"](feats, Evaluation(few_label_draws=2), 0))
    assert got["readout/few_label_1pct_raised"] == raised
    assert f"few_label_1pct: 1 % of the images of a class is less than one in {raised} of 4 classes" in caplog.text
    caplog.clear()
    assert (
        dict(PROTOCOLS["few_label_10pct"](feats, Evaluation(few_label_draws=2), 0))["readout/few_label_10pct_raised"]
        == 0
    )
    assert caplog.text == ""
