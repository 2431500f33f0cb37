"""Features that no readout can use are named once, with the number of images; nothing is printed for them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from experiments.__main__ import main
from experiments.plan.baselines import digits4
from moco import checkpoint
from moco.config import ResNet
from moco.config.plain import to_plain
from moco.data import load
from moco.errors import UnusableFeatures
from moco.evaluation.features import check_usable
from moco.evaluation.protocols import protocol, protocols
from moco.evaluation.readouts import features_for, final_values, validation_values
from moco.model import Projector, build_query

CONFIG = replace(digits4(), encoder=ResNet(depth=8, width=2, stem="small", batch_norm_splits=8))
GOOD = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))


def changed(row: int, value: float) -> Tensor:
    features_ND = GOOD.clone()
    features_ND[row, 1] = value
    return features_ND


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (changed(3, math.nan), GOOD, "of the features of 10 training images 1 NaN"),
        (changed(3, math.inf), GOOD, "of the features of 10 training images 1 infinite"),
        (changed(3, 1e25), GOOD, "of the features of 10 training images 1 too large for float32"),
        (changed(3, -math.inf), changed(0, math.nan), "10 training images 1 infinite; .* 10 test images 1 NaN"),
        (torch.full((10, 4), math.nan), GOOD, "10 training images 10 NaN"),
        (torch.full((10, 4), 0.3), torch.full((5, 4), 0.3), "all 15 images have the same features"),
        (torch.zeros(10, 4), torch.zeros(5, 4), "all 15 images have the same features"),
        (torch.full((10, 4), 0.3), torch.full((5, 4), 0.3 + 1e-9), "all 15 images have the same features"),
    ],
)
def test_each_kind_is_counted(train: Tensor, test: Tensor, words: str) -> None:
    with pytest.raises(UnusableFeatures, match=words) as error:
        check_usable({"training": train, "test": test})
    assert str(error.value).startswith("no readout: ")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (GOOD, GOOD),
        (GOOD * 1e15, GOOD),
        (GOOD * 1e-12, GOOD * 1e-12),
        (torch.full((10, 4), 0.3), torch.full((5, 4), 0.4)),
        (GOOD[:1], GOOD[:0]),
    ],
    ids=["ordinary", "large", "small", "two values", "one image"],
)
def test_others_are_left_alone(train: Tensor, test: Tensor) -> None:
    check_usable({"training": train, "test": test})


def collapsed(query: Projector) -> None:
    for module in query.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.zero_()
            module.bias.data.fill_(0.5)


def broken(query: Projector) -> None:
    next(query.encoder.parameters()).data.fill_(math.nan)


def overflowing(query: Projector) -> None:
    for module in query.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.mul_(1e13)


@pytest.mark.parametrize(
    ("harm", "words"),
    [(collapsed, "have the same features"), (broken, "NaN"), (overflowing, "infinite|NaN|too large")],
    ids=["collapsed", "NaN weights", "overflowing"],
)
def test_no_protocol_reports_a_number(
    harm: Callable[[Projector], None], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = load(CONFIG.data, print)
    query = build_query(CONFIG, 4).eval()
    harm(query)
    for name in protocols():
        with pytest.raises(UnusableFeatures, match=words):
            dict(protocol(name)(features_for([name], query, data, CONFIG), CONFIG.evaluation, 0))
    with pytest.raises(UnusableFeatures, match=words):
        final_values(query, data, CONFIG)
    with caplog.at_level(logging.WARNING, "moco"):
        assert validation_values(query, data, CONFIG) == {}
    assert caplog.text.count("no readout: ") == 1


def test_a_file_with_them_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = build_query(CONFIG, 4)
    collapsed(query)
    state = {"encoder": query.encoder.state_dict(), "head": query.head.state_dict(), "step": 1}
    checkpoint.save(state | {"config": to_plain(CONFIG)}, tmp_path / "encoder.pt")
    assert main(["evaluate", str(tmp_path / "encoder.pt"), "--protocol", "knn", "linear", "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "error: no readout: all 720 images have the same features: the encoder has collapsed, or the images are all the same\n"
    )
