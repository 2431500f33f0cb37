"""Batches made ahead: the same bits in the same order, errors in their place, and no thread is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch

from moco.config import Config, Data, ResNet, Train
from moco.data import load
from moco.data.ahead import ahead
from moco.data.decode import Unreadable
from moco.data.images import Streamed
from moco.data.loader import Batches
from moco.methods import AUGMENT_V2
from moco.trainer import uncompiled
from tests.data_files import write_folder
from tests.parts import require_part

CPU = torch.device("cpu")
CONFIG = Config(
    data=Data(image_size=16), augment=AUGMENT_V2, encoder=ResNet(depth=8, width=8, batch_norm_splits=2),
    train=Train(batch_size=8, seed=3),
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Generator[None, None, None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "batches ahead"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return write_folder(tmp_path / "set", per_class=23)


def batches(
    root: Path, depth: int, *, stream: bool = False, workers: int = 0, compiled: bool = False, device: str = "cpu"
) -> Batches:
    data = Data(name="folder", root=str(root), image_size=16, stream=stream, workers=workers)
    split = load(data, print).pretrain
    return Batches(split, replace(CONFIG, data=data), torch.device(device), ahead=depth, compiled=compiled)


def assert_same(mine: Batches, plain: Batches, epoch: int, first_step: int = 0) -> None:
    for a, b in zip(mine.epoch(epoch, first_step), plain.epoch(epoch, first_step), strict=True):
        assert a.step == b.step
        for one, other in zip(a.tensors(), b.tensors(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("stream", "workers"), [(False, 0), (True, 0), (True, 2)])
def test_batches_are_the_same_bits(root: Path, stream: bool, workers: int, device: str) -> None:
    """Whole epochs, one from its middle, and one after another that was given up."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA GPU here")
    mine, plain = (batches(root, depth, stream=stream, workers=workers, device=device) for depth in (2, 0))
    assert_same(mine, plain, 0)
    given_up = mine.epoch(1)
    next(given_up)
    del given_up
    assert_same(mine, plain, 1, first_step=2)


@pytest.mark.filterwarnings("default")  # torch's own, about itself
def test_compiled_views_are_the_same_bits_and_compiled_once(root: Path) -> None:
    """Also while the caller has torch's stance changed, which is the process's and not the thread's."""
    from torch._dynamo.utils import counters

    require_part("c++")
    torch.compiler.reset()
    mine, plain = (batches(root, depth, compiled=True) for depth in (2, 0))
    assert_same(mine, plain, 0)
    graphs = counters["stats"]["unique_graphs"]
    for one, other in zip(mine.epoch(1), plain.epoch(1), strict=True):
        assert torch.equal(one.query_view_B3SS, other.query_view_B3SS)
        with uncompiled():
            time.sleep(0.02)
    assert counters["stats"]["unique_graphs"] == graphs


def numbers(count: int, made: list[int]) -> Generator[int, None, None]:
    for number in range(count):
        made.append(number)
        yield number
    raise Unreadable("a.png", "broke")


def test_so_many_are_made_before_they_are_asked_for() -> None:
    made: list[int] = []
    first_to_last = ahead(numbers(9, made), 3, CPU, lambda _: ())
    assert next(first_to_last) == 0
    deadline = time.monotonic() + 10
    while len(made) < 5 and time.monotonic() < deadline:  # the first, three that wait, one at hand
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3, 4]
    with uncompiled():
        assert [next(first_to_last) for _ in range(3)] == [1, 2, 3]
        time.sleep(0.05)
        assert made == [0, 1, 2, 3, 4]  # none is made meanwhile


@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_error_comes_in_its_place(count: int) -> None:
    taken: list[int] = []
    with pytest.raises(Unreadable, match=r"^a\.png: broke$"):
        taken.extend(ahead(numbers(count, []), 2, CPU, lambda _: ()))
    assert taken == list(range(count))


def test_the_end_comes_in_its_place() -> None:
    assert list(ahead((n for n in range(4)), 2, CPU, lambda _: ())) == [0, 1, 2, 3]


def test_a_file_that_broke_since_is_named(root: Path) -> None:
    loaded = batches(root, 2, stream=True, workers=1)
    assert isinstance(loaded.images, Streamed)
    broken = loaded.images.paths[0]
    Path(broken).write_bytes(b"no picture")
    with pytest.raises(Unreadable, match="cannot identify image file"):
        list(chain.from_iterable(loaded.epoch(epoch) for epoch in range(3)))  # one image is left out of an epoch


def test_who_stops_early_closes_the_source() -> None:
    closed: list[str] = []

    def source() -> Generator[int, None, None]:
        try:
            yield from range(10**9)
        finally:
            closed.append(threading.current_thread().name)

    for number in ahead(source(), 2, CPU, lambda _: ()):
        if number == 3:
            break
    assert closed == ["MainThread"]
