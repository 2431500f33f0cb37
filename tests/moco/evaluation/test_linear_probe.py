"""Oracles: torch.optim.SGD on one pair at a time, scikit-learn's logistic regression, a constant feature's closed form."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import moco.evaluation.linear_probe as lp
from moco.evaluation.features import Labelled
from moco.evaluation.linear_probe import Pair
from moco.evaluation.scores import score
from moco.randomness import generator


def digits(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Labelled, Labelled, Labelled]:
    """1,300 / 137 / 360 images, their 64 pixels as features."""
    pixels, target = load_digits(return_X_y=True)
    features_ND, labels_N = torch.tensor(pixels, dtype=dtype), torch.tensor(target)
    order_N = torch.randperm(len(labels_N), generator=generator("cpu", "digits", seed))
    train, validation, test = (
        Labelled(features_ND[rows_B], labels_N[rows_B]) for rows_B in order_N.split([1300, 137, 360])
    )
    return train, validation, test


def standardised(train: Labelled, features_ND: Tensor) -> Tensor:
    std_D = train.features_ND.std(0, correction=0)
    return (features_ND - train.features_ND.mean(0)) / torch.where(std_D > 0, std_D, 1.0)


def one_pair(train: Labelled, pair: Pair, epochs: int, seed: int) -> Tensor:
    """(E, C): the plain loop, with torch's optimiser and schedule."""
    inputs_ND = standardised(train, train.features_ND)
    weight = torch.zeros(10, inputs_ND.shape[1], dtype=inputs_ND.dtype, requires_grad=True)
    bias = torch.zeros(10, dtype=inputs_ND.dtype, requires_grad=True)
    optimiser = torch.optim.SGD([weight], lr=pair.lr, momentum=0.9, weight_decay=pair.weight_decay)
    optimiser.add_param_group({"params": [bias], "weight_decay": 0.0})
    batches = math.ceil(len(train) / 256)
    steps = epochs * batches
    cosine = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    for epoch in range(epochs):
        order_N = torch.randperm(len(train), generator=generator("cpu", seed, "linear probe", epoch))
        for rows_B in order_N.tensor_split(batches):
            optimiser.zero_grad()
            F.cross_entropy(F.linear(inputs_ND[rows_B], weight, bias), train.labels_N[rows_B]).backward()
            optimiser.step()
            cosine.step()
    return torch.cat([weight.detach().T, bias.detach()[None]])


def test_every_pair_is_torchs_sgd() -> None:
    train, _, _ = digits(0, torch.float64)
    pairs = [Pair(0.03, 0.0), Pair(0.3, 1e-2), Pair(3.0, 1e-4), Pair(30.0, 0.1)]
    weights_ECP = lp.fit(train, lp.standardiser(train.features_ND), 10, 3, 7, pairs)
    for p, pair in enumerate(pairs):
        torch.testing.assert_close(weights_ECP[:, :, p], one_pair(train, pair, 3, 7), rtol=1e-9, atol=1e-9)


def test_the_winner_of_a_whole_run_is_torchs_sgd_in_float32() -> None:
    train, validation, _ = digits(1)
    probe = lp.linear_probe(train, validation, 10, 100, 5)
    assert len(lp.GRID) >= 40
    assert probe.pair in lp.GRID
    torch.testing.assert_close(probe.weights_EC, one_pair(train, probe.pair, 100, 5), rtol=0, atol=1e-5)


def test_as_accurate_as_scikit_learns_logistic_regression() -> None:
    """Mean of three splits of 360 test images; one standard error of a split's accuracy is about one point."""
    difference = 0.0
    for seed in range(3):
        train, validation, test = digits(seed)
        probe = lp.linear_probe(train, validation, 10, 100, seed)
        ours = score(probe.scores(test.features_ND), test.labels_N).top1
        theirs = LogisticRegression(max_iter=1000).fit(standardised(train, train.features_ND), train.labels_N)
        assert ours is not None
        difference += (ours - 100 * theirs.score(standardised(train, test.features_ND), test.labels_N)) / 3
    assert abs(difference) < 1.0


def test_the_winner_is_the_best_on_validation_and_ties_go_to_decay_then_to_the_lower_rate() -> None:
    train, validation, _ = digits(2)
    probe = lp.linear_probe(train, validation, 10, 20, 0)
    weights_ECP = lp.fit(train, probe.standardise, 10, 20, 0, lp.GRID)
    inputs_ND = standardised(train, validation.features_ND)
    top1 = {}
    for p, pair in enumerate(lp.GRID):
        predicted_N = (inputs_ND @ weights_ECP[:-1, :, p] + weights_ECP[-1, :, p]).argmax(1)
        top1[pair] = 100.0 * int((predicted_N == validation.labels_N).sum()) / len(validation)
    expected = max(lp.GRID, key=lambda pair: (top1[pair], pair.weight_decay, -pair.lr))
    assert probe.pair == expected
    assert probe.validation_top1 == pytest.approx(top1[expected])
    assert sum(value == top1[expected] for value in top1.values()) > 1, "no tie: the test says nothing about them"


def test_groups_that_fit_in_memory_give_the_same_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation, _ = digits(0)
    whole = lp.linear_probe(train, validation, 10, 5, 0)
    monkeypatch.setattr(lp, "MOST_NUMBERS", 10 * (3 * 64 + 2 * 256) * 5)  # five pairs at once
    groups = lp.linear_probe(train, validation, 10, 5, 0)
    assert (groups.pair, groups.validation_top1) == (whole.pair, whole.validation_top1)
    torch.testing.assert_close(groups.weights_EC, whole.weights_EC, rtol=0, atol=1e-5)


def test_the_same_seed_repeats_bit_for_bit_and_another_does_not() -> None:
    train, _, _ = digits(0)
    first, again, other = (lp.fit(train, lp.standardiser(train.features_ND), 10, 2, s, lp.GRID) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_pair_that_diverges_is_not_chosen() -> None:
    train, validation, _ = digits(0)
    probe = lp.linear_probe(train, validation, 10, 2, 0, [Pair(1e38, 1e3), Pair(0.1, 0.0)])
    assert probe.pair == Pair(0.1, 0.0)
    lost = lp.linear_probe(train, validation, 10, 2, 0, [Pair(1e38, 1e3)])
    assert not bool(lost.weights_EC.isfinite().all())
    assert lost.validation_top1 == 0.0


def test_a_constant_feature_is_centred_and_not_blown_up() -> None:
    features_ND = torch.randn(1000, 3, generator=generator("cpu", "constant"))
    features_ND[:, 1] = 0.1  # its float32 mean is not exactly 0.1
    inputs_NE = lp.standardiser(features_ND)(features_ND)
    assert float(inputs_NE[:, 1].abs().max()) < 1e-6
    torch.testing.assert_close(inputs_NE[:, [0, 2]].var(0, correction=0), torch.ones(2))
    assert bool((inputs_NE[:, 3] == 1).all())


def test_every_image_is_visited_once_an_epoch_and_a_large_set_has_at_most_313_steps() -> None:
    for images in (1, 256, 257, 1300):
        numbered = Labelled(torch.arange(images)[:, None].float(), torch.arange(images) % 3)
        steps = list(lp.minibatches(numbered, lp.Standardiser(torch.zeros(1), torch.ones(1)), 3, 1, 0))
        assert len(steps) == math.ceil(images / 256)
        seen = torch.cat([inputs_BE[:, 0] for _, inputs_BE, _ in steps]).long()
        assert torch.equal(seen.sort().values, torch.arange(images))
        targets = torch.cat([target_BC1 for *_, target_BC1 in steps])
        assert torch.equal(targets[:, :, 0], F.one_hot(seen % 3, 3).float())
    assert (lp.batch_size(1300), lp.batch_size(80_000), lp.batch_size(1_280_000)) == (256, 256, 4096)


def test_no_validation_image_is_an_error() -> None:
    train, _, _ = digits(0)
    with pytest.raises(ValueError, match=r"^0 validation images: .* raise data.validation_share$"):
        lp.linear_probe(train, Labelled(train.features_ND[:0], train.labels_N[:0]), 10, 1, 0)
