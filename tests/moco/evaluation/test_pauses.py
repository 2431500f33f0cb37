"""Loops of readouts that are stopped at every epoch in turn. Oracle: the same loop that nobody stops, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from moco.evaluation.features import Crops, Labelled
from moco.evaluation.linear_probe import Pair, linear_probe
from moco.evaluation.paper_probe import paper_probe
from moco.evaluation.pauses import Progress, Stopped, once

CLASSES, WIDTH = 3, 8


def split(images: int, seed: int) -> Labelled:
    draw = torch.Generator().manual_seed(seed)
    return Labelled(torch.randn(images, WIDTH, generator=draw), torch.randint(CLASSES, (images,), generator=draw))


def linear() -> list[torch.Tensor]:
    pairs = (Pair(0.1, 0.0), Pair(1.0, 1e-3))
    probe = linear_probe(split(600, 0), split(50, 1), CLASSES, 4, 0, pairs)  # three steps an epoch
    return [probe.weights_EC, torch.tensor([probe.pair.lr, probe.validation_top1])]


def paper() -> list[torch.Tensor]:
    layer = paper_probe(Crops(nn.Linear(2, 2), lambda epoch: split(300, epoch)), CLASSES, 0, epochs=4)
    return [layer.weight.detach(), layer.bias.detach()]


@pytest.mark.parametrize("loop", [linear, paper])
def test_stopped_at_every_epoch_it_ends_with_the_same_numbers(
    tmp_path: Path, loop: Callable[[], list[torch.Tensor]]
) -> None:
    expected, path, attempts = loop(), tmp_path / "readouts.pt", 0
    while True:
        attempts += 1
        assert attempts < 20
        try:
            with Progress(path, lambda: True, {"step": 1}):
                once("part", loop)
                raise AssertionError("nobody was asked")
        except Stopped:
            pass
        with Progress(path, lambda: False, {"step": 1}) as progress:
            if "part" in progress.parts:
                found = once("part", loop)
                break
    assert attempts >= 4
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_damaged_file_and_one_of_another_step_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "readouts.pt"
    with pytest.raises(Stopped), Progress(path, lambda: True, {"step": 1}):
        once("part", lambda: 1.0)
    assert Progress(path, lambda: False, {"step": 1}).parts == {"part": 1.0}
    assert Progress(path, lambda: False, {"step": 2}).parts == {}
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert Progress(path, lambda: False, {"step": 1}).parts == {}
    assert "the readouts are begun anew" in caplog.text
