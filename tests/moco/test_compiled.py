"""`train.speed`: the same run to rounding, with the encoders of the steps compiled and everything else left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moco.config import Config, Data, Head, Momentum, Queue, ResNet, Train
from moco.data import load
from moco.methods import moco_v2
from moco.train import Record, train
from moco.trainer import Trainer, choose_device
from tests.support.parts import require_part

STEPS = 3
SPEEDS = {(False, False): "eager", (True, False): "compiled", (True, True): "graphs"}


def config(*, compiled: bool, graphs: bool = False) -> Config:
    base = moco_v2()
    return replace(
        base,
        data=Data(name="digits"),
        encoder=ResNet(depth=8, width=4, stem="strided", batch_norm_splits=2),
        head=Head((8,), 8),
        key_encoder=Momentum(0.9),
        negatives=Queue(256),
        evaluation=replace(base.evaluation, knn_every=0, linear_epochs=2),
        train=replace(base.train, epochs=1, batch_size=64, speed=SPEEDS[compiled, graphs], device="cpu"),
    )


def stepped(*, compiled: bool, graphs: bool = False) -> Trainer:
    """After steps on the eager views: those of a compiled run differ by 2e-6, which three steps make a hundredth of."""
    one, plain = config(compiled=compiled, graphs=graphs), config(compiled=False)
    data = load(one.data, print)
    trainer = Trainer(one, data, torch.device("cpu"))
    batches = list(Trainer(plain, data, torch.device("cpu")).batches.epoch(0))[:STEPS]
    for batch in batches:
        trainer.take_step(batch)
    rendered = next(trainer.batches.epoch(0))
    torch.testing.assert_close(rendered.query_view_B3SS, batches[0].query_view_B3SS, rtol=0, atol=1e-5)
    return trainer


@pytest.fixture
def new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled here and now, in one process."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch.compiler.reset()


@pytest.mark.filterwarnings("default")  # torch's own, about itself
@pytest.mark.usefixtures("new_cache")
def test_compiled_steps_equal_eager_ones_and_readouts_compile_nothing(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    require_part("c++")

    counters.clear()
    eager, fast = stepped(compiled=False), stepped(compiled=True)
    assert float(fast.meter.sums["loss"]) == pytest.approx(float(eager.meter.sums["loss"]), rel=1e-5)
    state = fast.model.state_dict()
    assert list(state) == list(eager.model.state_dict())
    for name, tensor in eager.model.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert counters["stats"]["unique_graphs"] == 3  # query encoder, key encoder, views
    replayed = stepped(compiled=True, graphs=True).model.state_dict()
    for name, tensor in state.items():  # the same code on a CPU, through the same calls as on a GPU
        assert torch.equal(replayed[name], tensor), name
    graphs = counters["stats"]["unique_graphs"]
    records = [r for r in train(config(compiled=True), tmp_path) if isinstance(r, Record)]
    assert "test/knn20_top1" in records[-1].values
    assert counters["stats"]["unique_graphs"] == graphs  # of kNN, probe and drift there are none


def test_without_a_compiler_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    one, data = config(compiled=True), load(Data(name="digits"), print)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        ValueError, match=r"train.speed = compiled: needs a compiler on this machine \(g\+\+\); install g"
    ):
        Trainer(one, data, torch.device("cpu"))


def test_parts_of_a_batch_are_not_compiled() -> None:
    one = config(compiled=True)
    encoder = replace(one.encoder, batch_norm_splits=4)
    one = replace(one, encoder=encoder, train=replace(one.train, accumulate=4))
    with pytest.raises(
        ValueError, match=r"train.speed = compiled and train.accumulate = 4: compiling needs whole batches"
    ):
        Trainer(one, load(one.data, print), torch.device("cpu"))


def test_graphs_replay_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"train.cuda_graphs = True: replays what is compiled; set train.compile=true"):
        Train(cuda_graphs=True)
    one = config(compiled=True, graphs=True)
    data = load(one.data, print)
    monkeypatch.setattr("moco.trainer.size", lambda: 2)
    with pytest.raises(
        ValueError, match=r"train.speed = graphs and 2 processes: graphs are for one; set train.speed=co"
    ):
        Trainer(one, data, torch.device("cpu"))


@pytest.mark.parametrize("name", ["mps", "meta", "gpu", "cuda:x"])
def test_what_is_no_device_is_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^train.device = {name}: must be auto, cpu, cuda or cuda:N$"):
        choose_device(name)


@pytest.mark.parametrize("beyond", [torch.cuda.device_count(), 200])
def test_a_gpu_that_is_not_there_is_one_line(beyond: int) -> None:
    with pytest.raises(
        ValueError, match=rf"train.device = cuda:{beyond}: torch sees {torch.cuda.device_count()} CUDA GPUs here"
    ):
        choose_device(f"cuda:{beyond}")
