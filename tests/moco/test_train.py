"""Resume is bit for bit, records come in their order, stopping saves, and a bad checkpoint is one clear line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

import moco.train
from experiments.plan.baselines import digits
from experiments.plan.overrides import apply
from experiments.store.schema import METRICS, ON_REQUEST
from moco import checkpoint
from moco.config import Config, Queue, Train
from moco.config.training import Speed
from moco.data.splits import ImageData
from moco.evaluation.hits import TopOne
from moco.speed import Way
from moco.train import CHECKPOINT, ENCODER, PREVIOUS, READOUTS, Diverged, Paused, Record, Resumed, train
from moco.trainer import Trainer

CLOCKS = ("speed/", "seconds/")


def quick(**changes: object) -> Config:
    base = digits()
    return replace(
        base,
        negatives=Queue(200),
        train=replace(base.train, epochs=3, batch_size=256, log_every=2, device="cpu"),
        evaluation=replace(base.evaluation, knn_every=1, linear_epochs=5, few_label_draws=2),
        **changes,
    )


def stop_after(steps: int) -> Callable[[], bool]:
    left = iter(range(steps - 1, -1, -1))
    return lambda: next(left) == 0


def numbers(records: Iterator[Record | Resumed | Paused]) -> dict[tuple[int, str], float]:
    found: dict[tuple[int, str], float] = {}
    for record in records:
        if isinstance(record, Record):
            for key, value in record.values.items():
                if not key.startswith(CLOCKS):
                    assert (record.step, key) not in found, f"{key} twice at step {record.step}"
                    found[record.step, key] = value
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[int, str], float], Path]:
    folder = tmp_path_factory.mktemp("whole")
    return numbers(train(quick(), folder)), folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(folder / ENCODER)
    return state["encoder"] | {f"head.{k}": v for k, v in state["head"].items()}


@pytest.mark.parametrize("stop_at", [1, 5, 6, 14])
def test_stopped_anywhere_and_resumed_is_the_uninterrupted_run(whole, tmp_path: Path, stop_at: int) -> None:
    expected, folder = whole
    first = numbers(train(quick(), tmp_path, stop_after(stop_at)))
    assert not (tmp_path / ENCODER).exists()
    events = list(train(quick(), tmp_path))
    assert events[0] == Resumed(stop_at)
    assert first | numbers(iter(events)) == expected
    for name, tensor in weights(folder).items():
        assert torch.equal(tensor, weights(tmp_path)[name]), name


def test_a_stop_says_the_step_that_was_saved_and_not_that_of_the_last_record(tmp_path: Path) -> None:
    """A record every two steps, five steps an epoch."""
    events = list(train(quick(), tmp_path, stop_after(7)))
    assert isinstance(events[-2], Record)
    assert events[-2].step == 6
    assert events[-1] == Paused(7, 1.4)
    assert checkpoint.load(tmp_path / CHECKPOINT)["step"] == 7


def test_the_speed_that_was_asked_for_holds_after_checkpoints_that_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided by the launch: the config itself says auto, which is eager."""
    speeds: list[str | None] = []

    class Noting(Trainer):
        def __init__(self, config: Config, data: ImageData, device: torch.device, speed: Speed | None = None) -> None:
            speeds.append(speed)
            super().__init__(config, data, device, "eager")

    monkeypatch.setattr(moco.train, "Trainer", Noting)
    for name in (CHECKPOINT, PREVIOUS):
        (tmp_path / name).write_bytes(b"")
    config = apply(quick(), ["train.device=auto"])
    assert next(train(config, tmp_path, way=Way("cpu", "eager", "so it was decided"))) == Resumed(0)
    assert speeds == ["eager", "eager"]


def test_a_finished_run_trains_no_step_again(whole) -> None:
    expected, folder = whole
    events = list(train(quick(), folder))
    assert events[0] == Resumed(15)
    assert len(events) == 2
    again = numbers(iter(events))
    assert again == {key: expected[key] for key in again}


def test_every_mirrored_metric_is_there_and_of_the_named_kind(whole) -> None:
    expected, _ = whole
    seen = {key for _, key in expected}
    assert {key for key in METRICS if not key.startswith(CLOCKS) and key.partition("/")[2] not in ON_REQUEST} <= seen


def test_zero_epochs_is_the_random_initialisation(tmp_path: Path) -> None:
    """No weight moves; BatchNorm's statistics do."""
    from moco.model import build_query

    config = quick(optim=digits().optim)
    config = replace(config, train=replace(config.train, epochs=0))
    (record,) = train(config, tmp_path)
    assert isinstance(record, Record)
    assert record.step == 0
    assert "test/linear_top1" in record.values
    start = dict(build_query(config, 10).encoder.named_parameters())
    state = checkpoint.load(tmp_path / ENCODER)["encoder"]
    for name, parameter in start.items():
        assert torch.equal(state[name], parameter), name
    assert any(float(v.abs().max()) > 0 for k, v in state.items() if k.endswith("running_mean"))


def test_divergence_says_where(tmp_path: Path) -> None:
    config = quick()
    config = replace(config, optim=replace(config.optim, lr=1e30))
    with pytest.raises(Diverged, match=r"the loss is nan at step \d+; lower optim.lr"):
        list(train(config, tmp_path))


def test_another_runs_checkpoint_is_refused(whole, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes((whole[1] / CHECKPOINT).read_bytes())
    with pytest.raises(ValueError, match="the checkpoint is of run"):
        list(train(replace(quick(), train=Train(epochs=4, batch_size=256, device="cpu")), tmp_path))


def flipped(data: bytes) -> bytes:
    """One bit of the largest tensor: torch reads the file as if nothing had happened."""
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


@pytest.mark.parametrize("damage", [flipped, lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_the_weights_are_those_of_the_whole_run(
    whole, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    expected, folder = whole
    first = numbers(
        train(quick(), tmp_path, stop_after(7))
    )  # checkpoints at the evaluation after step 5, and at step 7
    (tmp_path / CHECKPOINT).write_bytes(damage((tmp_path / CHECKPOINT).read_bytes()))
    events = list(train(quick(), tmp_path))
    assert events[0] == Resumed(5)
    assert re.search(
        r"checkpoint\.pt: (damaged|not a readable checkpoint).*; going on from checkpoint\.prev", caplog.text
    )
    assert {key: value for key, value in first.items() if key[0] <= 5} | numbers(iter(events)) == expected
    for name, tensor in weights(folder).items():
        assert torch.equal(tensor, weights(tmp_path)[name]), name


def test_without_a_sound_checkpoint_the_run_starts_afresh_and_says_so(
    whole, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected, folder = whole
    numbers(train(quick(), tmp_path, stop_after(7)))
    for name in (CHECKPOINT, PREVIOUS):
        (tmp_path / name).write_bytes(flipped((tmp_path / name).read_bytes()))
    events = list(train(quick(), tmp_path))
    assert events[0] == Resumed(0)
    assert "none of its checkpoints is sound; the run starts afresh" in caplog.text
    assert numbers(iter(events)) == expected
    assert all(torch.equal(tensor, weights(tmp_path)[name]) for name, tensor in weights(folder).items())


def test_final_readouts_stop_when_they_are_told_to_and_go_on_bit_for_bit(tmp_path: Path) -> None:
    """Told again and again, a few questions after features were extracted. Oracle: the run that nobody stops."""
    base = quick()
    evaluation = replace(base.evaluation, knn_every=0, finetune=True, finetune_epochs=2, finetune_per_class=4)
    config = replace(base, evaluation=evaluation, train=replace(base.train, epochs=1))
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    expected = numbers(train(config, tmp_path / "whole"))
    items, attempts = list(train(config, tmp_path / "cut", within(5))), 1  # at the last step
    found, last = numbers(iter(items)), items[-1]
    assert isinstance(last, Paused)
    assert (last.step, last.epoch) == (5, 1.0)
    assert last.readouts == checkpoint.load(tmp_path / "cut" / READOUTS)["done"]
    while not (tmp_path / "cut" / ENCODER).exists():
        found |= numbers(train(config, tmp_path / "cut", within(13)))
        attempts += 1
        assert attempts < 30
    assert attempts > 3
    assert found == expected
    assert {key: vars(value) for key, value in found.items() if isinstance(value, TopOne)} == {
        key: vars(value) for key, value in expected.items() if isinstance(value, TopOne)
    }
    assert any(isinstance(value, TopOne) for value in found.values())
    assert not (tmp_path / "cut" / READOUTS).exists()
    assert all(
        torch.equal(weights(tmp_path / "whole")[name], tensor) for name, tensor in weights(tmp_path / "cut").items()
    )


def within(questions: int) -> Callable[[], bool]:
    """Stop from the n-th question on."""
    asked = count(1)
    return lambda: next(asked) >= questions


def test_a_pickle_with_code_is_not_executed(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"encoder": Malicious()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()
