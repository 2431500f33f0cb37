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
from moco.evaluation.pauses import Progress, Stopped, ask, kept, once, pause

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


def test_what_is_kept_is_counted_and_what_a_later_attempt_repeats_is_not(tmp_path: Path) -> None:
    """Four epochs, of which a stop keeps the one before it; a stop that comes elsewhere keeps none of the epochs since."""
    path, epochs = tmp_path / "readouts.pt", 4

    def loop(until: int) -> int:
        for epoch in range((kept("epochs") or {"epoch": 0})["epoch"], epochs):
            ask()
            if epoch == until:
                asked.append(epoch)
                ask()
            pause("epochs", lambda epoch=epoch: {"epoch": epoch + 1})
        return epochs

    def stopped(stop: Callable[[], bool], until: int = epochs) -> int:
        with pytest.raises(Stopped), Progress(path, stop, {"step": 1}) as progress:
            once("part", lambda: loop(until))
        return progress.done

    asked: list[int] = []
    second = iter([False, True]).__next__  # within the first epoch no, after it yes
    assert stopped(second) == 1
    assert stopped(lambda: bool(asked), until=3) == 1  # two more epochs, which nothing has kept
    assert Progress(path, lambda: False, {"step": 1}).done == 1
    asked.clear()
    assert stopped(lambda: True) == 1
    with Progress(path, lambda: False, {"step": 1}) as progress:
        once("part", lambda: loop(epochs))
        assert progress.done == 2
    assert Progress(path, lambda: False, {"step": 2}).done == 0  # of another step


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
