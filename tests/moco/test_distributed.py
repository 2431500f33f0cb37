"""Two gloo processes compute what one process computes: norms, views, readouts, every method, and whole runs.

All that the two do, they do in one go (`tests.support.two_processes`). Oracle: the same code without a group, in this process,
in float64 where training is compared, and torch's own BatchNorm.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.plan.configs import create
from experiments.run import distributed
from experiments.run.worker import attempt
from experiments.store import schema
from experiments.store.run import RunDirectory
from moco.config import Config, check_processes
from moco.randomness import key_order
from tests.support import two_processes as two
from tests.support.data_files import write_folder


@dataclass
class Both:
    folder: Path
    processes: list[subprocess.Popen[bytes]]

    def wait(self) -> list[int]:
        return [process.wait(timeout=500) for process in self.processes]

    def found(self, what: str) -> list[Any]:
        """By rank."""
        self.wait()
        return [torch.load(self.folder / f"{rank}.pt", weights_only=True)[what] for rank in (0, 1)]

    def run(self, name: str) -> RunDirectory:
        self.wait()
        return RunDirectory(self.folder / name)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("two")
    write_folder(folder / "images", per_class=23)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        processes = two.started(folder)
        yield Both(folder, processes)
    for process in processes:
        process.kill()
        process.wait()


def apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return two.all_trained()


@pytest.mark.parametrize("method", two.tiny_methods())
def test_twenty_steps_of_every_method_are_those_of_one_process(alone, both: Both, method: str) -> None:
    first, second = (found[method] for found in both.found("trained"))
    one = alone[method]
    assert apart(one["model"], first["model"]) < 1e-8  # weights, queues, banks, pointers, running statistics
    assert apart(one["velocity"], first["velocity"]) < 1e-8
    assert len(one["records"]) == len(first["records"]) == two.STEPS // 4
    for ours, expected in zip(first["records"], one["records"], strict=True):
        # With accumulation the figures of the features are those of the last part, which is another one.
        names = [n for n in expected if method != "accumulated" or not n.startswith("features/")]
        assert ours.keys() == expected.keys()
        assert [ours[n] for n in names] == pytest.approx([expected[n] for n in names], rel=1e-6, abs=1e-6)
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), f"{name} is not the same in both processes"
    assert first["records"] == second["records"]


def test_the_method_that_is_compared_does_move(alone) -> None:
    """A check on the check: another seed is far away."""
    config = two.tiny_methods()["moco_v1"]
    other = two.trained(replace(config, train=replace(config.train, seed=1)))
    assert apart(alone["moco_v1"]["model"], other["model"]) > 1e-2


def test_what_processes_tell_each_other(both: Both) -> None:
    for rank, found in enumerate(both.found("collectives")):
        whole = torch.cat([torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3) + 10])
        assert torch.equal(found["gathered"], whole)
        # d/d(rows of all) of the sum over ranks of (r + 1) x weights x rows: 3 x weights.
        assert torch.equal(found["gradient"], 3.0 * torch.arange(12.0).view(4, 3)[2 * rank : 2 * rank + 2])
        assert [float(mean) for mean in found["averaged"]] == [1.5, 2.0]
        assert found["plain"].tolist() == [0, 0, 1, 1]
        assert (found["sum"].tolist(), found["any"], found["highest"]) == ([3], [True, False], 3)
        assert found["first"] == {"rank": 0}


def test_readouts_go_on_only_where_all_processes_have_read_the_same(both: Both) -> None:
    """Otherwise one would skip a part in which the other waits for it."""
    anew = [{}, 0.0]
    expected = {"alike": [{"part": 1.0}, 2.0], "an earlier epoch": anew, "a part less": anew, "no file": anew}
    assert both.found("kept readouts") == [expected, expected]


def slow_norm(name: str) -> dict[str, Tensor]:
    """By torch's BatchNorm, on each part of the whole batch; its running statistics move by the mean over the parts."""
    shape = two.NORMS[name][1]
    parts = int(name[0]) if name[0].isdigit() else 1
    affine, kind = name != "whole without scale", nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    norms = [kind(5, affine=affine, dtype=torch.float64) for _ in range(parts)]
    for norm in norms:
        for parameter, value in zip(norm.parameters(), (two.random(5), two.random(1, 5)[0]), strict=False):
            parameter.data.copy_(value)
    whole = (3.0 * two.random(*shape) + 5.0).requires_grad_()
    for _ in range(2):
        out = torch.cat([norm(part) for norm, part in zip(norms, whole.chunk(parts), strict=True)])
        (out * two.random(2, *shape)[0]).sum().backward()
    assert whole.grad is not None
    found = {"out": out.detach(), "of rows": whole.grad}
    for number, (n, _) in enumerate(norms[0].named_parameters()):
        found[f"of {n}"] = torch.stack([list(norm.parameters())[number].grad for norm in norms]).sum(0)
    return found | {
        n: torch.stack([dict(norm.named_buffers())[n].double() for norm in norms]).mean(0)
        for n, _ in norm.named_buffers()
    }


@pytest.mark.parametrize("name", two.NORMS)
def test_batch_norm_over_processes_is_torchs_on_the_parts_of_the_whole_batch(both: Both, name: str) -> None:
    expected = slow_norm(name)
    for found in both.found("norms"):
        assert apart(expected, found[name]) < 1e-12


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_each_process_renders_its_rows_of_the_views_to_the_bit(both: Both, stream: bool, shuffle: bool) -> None:
    whole, (first, second) = two.views(both.folder / "images", stream, shuffle), both.found("views")
    for step, batch in enumerate(whole):
        parts = [found[stream, shuffle][step] for found in (first, second)]
        order = key_order(0, len(whole) + step, 16) if shuffle else torch.arange(16)
        assert torch.equal(torch.cat([part["rows"] for part in parts]), batch["rows"])
        assert torch.equal(torch.cat([part["query"] for part in parts]), batch["query"])
        assert torch.equal(torch.cat([part["key"] for part in parts]), batch["key"][order])
        for part in parts:
            assert torch.equal(part["indices"], batch["indices"])
            assert torch.equal(part["labels"], batch["labels"])


def test_readouts_are_those_of_one_process(both: Both) -> None:
    """Features and votes to the bit, where the weights are; the measured statistics to rounding."""
    expected = two.read_out()
    for found in both.found("readouts"):
        assert apart(expected, found) < 1e-4
    first, second = both.found("readouts")
    assert all(torch.equal(first[name], second[name]) for name in expected)


def values(run: RunDirectory) -> list[tuple[int, dict[str, float]]]:
    return [
        (r["step"], {k: v for k, v in r["values"].items() if not k.startswith(("speed/", "seconds/"))})
        for r in run.records()
    ]


def weights(run: RunDirectory) -> dict[str, Tensor]:
    state = torch.load(run.path / schema.ENCODER, weights_only=True)
    return state["encoder"] | {f"head.{name}": value for name, value in state["head"].items()}


def test_a_run_of_two_processes_has_the_readouts_of_one(both: Both, tmp_path: Path) -> None:
    one, run = RunDirectory(tmp_path / "one"), both.run("whole")
    create(one, two.short_run())
    assert attempt(one.path) == schema.DONE
    assert apart(weights(one), weights(run)) < 1e-3  # in float32
    ours, expected = run.results() or {}, one.results() or {}
    assert ours["test"].keys() == expected["test"].keys()
    for name, value in expected["test"].items():
        assert ours["test"][name] == pytest.approx(value, abs=100 / 360), name  # an image of the test split
    assert [step for step, _ in values(run)] == [step for step, _ in values(one)]
    assert sum(line["event"] == "start" for line in run.attempts()) == 1


def test_a_signal_to_one_process_stops_both_and_resume_is_bit_for_bit(both: Both) -> None:
    whole, stopped = both.run("whole"), both.run("stopped")
    first, second = (torch.load(both.folder / f"stories of {rank}.pt", weights_only=True) for rank in (0, 1))
    assert (first["whole"], first["stopped"]) == (schema.DONE, schema.PREEMPTED)
    assert (first["resumed"], first["done"]) == (schema.DONE, schema.DONE)
    assert {second[name] for name in ("whole", "stopped", "resumed", "done")} == {distributed.FOLLOWED}
    ends = [line for line in stopped.attempts() if line["event"] == "end"]
    assert [(end["state"], end["reason"]) for end in ends] == [("preempted", "stopped by SIGUSR2"), ("done", None)]
    assert 0 < ends[0]["step"] < ends[1]["step"]
    starts = [line for line in stopped.attempts() if line["event"] == "start"]
    assert [start["ranks"] for start in starts] == [2, 2]
    assert values(whole) == values(stopped)
    assert all(torch.equal(value, weights(stopped)[name]) for name, value in weights(whole).items())


def test_an_error_of_another_process_is_the_runs_reason(both: Both) -> None:
    run = both.run("failing")
    status = run.status() or {}
    assert (status["state"], status["reason"]) == (schema.FAILED, "rank 1: OSError: the disk of this node is broken")
    assert 'rank 1:     raise OSError("the disk of this node is broken")' in (run.path / schema.LOG).read_text()


def test_a_killed_process_takes_the_run_down_with_a_reason(both: Both) -> None:
    assert both.wait() == [0, -9]
    run = both.run("killed")
    status = run.status() or {}
    assert status["state"] == schema.LOST  # the same command goes on from the last checkpoint
    assert status["reason"].startswith("another process of the run is gone or does not answer (")
    assert not run.is_locked()
    assert (run.path / schema.CHECKPOINT).exists()


@pytest.mark.parametrize(
    ("method", "change", "count", "message"),
    [
        ("moco_v1", {}, 3, "train.batch_size = 32 over 3 processes: must divide equally; choose a multiple of 3"),
        (
            "moco_v1",
            {},
            16,
            "encoder.batch_norm_splits = 8 over 16 processes: each process normalises whole parts; choose a multiple of 16, "
            "or 1 for one BatchNorm over all (SyncBN)",
        ),
        (
            "accumulated",
            {},
            8,
            "encoder.batch_norm_splits = 8 over 8 processes in 2 parts (train.accumulate): each process normalises whole "
            "parts; choose a multiple of 16, or 1 for one BatchNorm over all (SyncBN)",
        ),
        (
            "moco_v1",
            {"symmetric": True},
            2,
            "loss.symmetric = True and key_encoder.shuffle = True over 2 processes: each view would have to be rendered on "
            "two of them; set key_encoder.shuffle=false, or use one process",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_refused(method: str, change: dict[str, Any], count: int, message: str) -> None:
    config: Config = two.tiny_methods()[method]
    config = replace(config, loss=replace(config.loss, **change))
    check_processes(config, 1)
    with pytest.raises(ValueError, match=r".") as error:
        check_processes(config, count)
    assert str(error.value) == message
