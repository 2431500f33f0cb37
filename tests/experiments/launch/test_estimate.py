"""GPU-hours and disk. Oracle: sums by hand over runs whose seconds and sizes are given."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from experiments.launch import calibration, preview
from experiments.launch.estimate import (
    OVERHEAD_STEPS,
    advise,
    calibrations,
    costs,
    disk_need,
    estimate,
    finished,
    known,
)
from experiments.launch.launch_plan import LaunchPlan
from experiments.plan.sweep import Cell, make_cell
from experiments.run.machine import Slot, share_a_gpu
from experiments.store import schema
from experiments.store.files import read_json, replace_json
from experiments.store.run import RunDirectory
from moco.config import Config
from slurm.profiles import Profile
from tests.support import full_cluster
from tests.support.stand_in_runs import STEPS_PER_EPOCH, cell, prepared

A100, H100, XEON = "NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3", "Intel(R) Xeon(R) Processor"
WORK = 3 * STEPS_PER_EPOCH + OVERHEAD_STEPS


def on_gpu(one: Cell) -> Cell:
    return make_cell(one.arm, one.seed, replace(one.config, train=replace(one.config.train, device="cuda")))


def past(root: Path, seed: int, hardware: str, pace: float, size: int = 1000, gpus: int = 1) -> RunDirectory:
    """A finished run of three epochs that took `pace` seconds for each step of its work."""
    run = prepared(root, cell(seed=seed, epochs=3))
    run.append_attempt(schema.Attempt(event="start", attempt=1, hardware=hardware))
    replace_json(run.path / schema.RESULTS, {"seconds": pace * WORK, "test": {}})
    replace_json(run.path / schema.ENVIRONMENT, {"gpus": gpus})
    (run.path / schema.ENCODER).write_bytes(b"0" * size)
    return run


def test_hours_are_those_of_the_same_gpu(tmp_path: Path) -> None:
    for seed, (hardware, pace) in enumerate([(A100, 1.0), (A100, 3.0), (H100, 0.5), (XEON, 9.0)]):
        past(tmp_path, seed, hardware, pace)
    past(tmp_path, 9, A100, 100.0, gpus=8)  # a run on eight is no measure for a run on one
    cells = [on_gpu(cell(seed=seed, epochs=3)) for seed in range(20, 25)]
    pasts = list(finished(tmp_path))
    either = costs(pasts, cells, gpus=1, gpu_kind=None)
    assert [(c.hardware, c.runs, c.unknown) for c in either] == [(A100, 2, 0), (H100, 1, 0)]
    assert [c.hours for c in either] == pytest.approx([5 * WORK * 2.0 / 3600, 5 * WORK * 0.5 / 3600])
    (named,) = costs(pasts, cells, gpus=1, gpu_kind="h100")
    assert named.hardware == H100
    (eight,) = costs(pasts, cells, gpus=8, gpu_kind="a100")
    assert eight.hours == pytest.approx(5 * WORK * 100.0 / 3600)
    (cpu,) = costs(pasts, [cell(epochs=3)], gpus=0, gpu_kind=None)[:1]  # a run on the CPU takes what there is
    assert cpu.hardware == XEON


def test_runs_that_are_put_on_the_cpu_are_judged_by_runs_on_a_cpu_whatever_the_profile_asks_for(tmp_path: Path) -> None:
    """The digits with device = auto, of which an earlier version trained one on the GPU."""
    for seed, (hardware, pace) in enumerate([(H100, 0.5), (XEON, 9.0)]):
        past(tmp_path, seed, hardware, pace)
    one = cell(seed=5, epochs=3)
    left_open = make_cell(one.arm, one.seed, replace(one.config, train=replace(one.config.train, device="auto")))
    (cost,) = costs(list(finished(tmp_path)), [left_open], gpus=1, gpu_kind="h100")
    assert (cost.hardware, cost.hours) == (XEON, pytest.approx(WORK * 9.0 / 3600))
    (asked,) = costs(list(finished(tmp_path)), [on_gpu(left_open)], gpus=1, gpu_kind="h100")
    assert asked.hardware == H100


def test_what_is_of_another_kind_is_unknown(tmp_path: Path) -> None:
    past(tmp_path, 0, A100, 1.0)
    like, base = cell(seed=1, epochs=3), cell().config
    other = make_cell("big", 0, replace(base, train=replace(base.train, batch_size=64)))
    (cost,) = costs(list(finished(tmp_path)), [like, other], gpus=0, gpu_kind=None)
    assert (cost.unknown, cost.hours) == (1, pytest.approx(WORK / 3600))
    assert disk_need(list(finished(tmp_path)), [like, other]) is None


def test_disk_is_that_of_the_largest_run_like_it(tmp_path: Path) -> None:
    runs = [past(tmp_path, seed, A100, 1.0, size) for seed, size in enumerate((1000, 5000))]
    largest = max(sum(file.stat().st_size for file in run.path.iterdir()) for run in runs)
    assert disk_need(list(finished(tmp_path)), [cell(seed=7, epochs=3), cell(seed=8, epochs=9)]) == 2 * largest


@dataclass(frozen=True)
class Record:
    values: dict[str, float]


def paced(rates: list[float], seen: list[Config]) -> ModuleType:
    """A trainer that says it does so many images per second, lap by lap."""

    def train(config: Config, run_dir: Path, stop: Any) -> Iterator[Record]:
        seen.append(config)
        for rate in rates:
            for step in range(config.train.log_every):
                if step + 1 == config.train.log_every:
                    yield Record({"speed/images_per_s": rate})
                if stop():
                    return

    module = ModuleType("moco.train")
    vars(module).update(train=train, Record=Record)
    return module


def test_a_calibration_that_a_full_site_takes_in_part_says_what_is_left(tmp_path: Path) -> None:
    """Three kinds, of which the site takes one, whose job then leaves nothing."""
    profile, base = Profile("mine", cluster=full_cluster.NAME), cell().config
    kinds = [
        make_cell("x", 0, replace(base, train=replace(base.train, batch_size=size, epochs=3))) for size in (32, 64, 128)
    ]
    folders = [calibration._prepared(tmp_path, kind, profile) for kind in kinds]
    assert calibration._time_on_cluster(tmp_path, folders, profile) == [
        "job 1 left no log",
        "2 more, which did not fit into the site's limit of jobs; the same command again, when others have ended",
    ]


def test_a_calibration_counts_until_something_has_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setitem(sys.modules, "moco.train", paced([1.0, 256.0, 64.0, 128.0, 999.0], seen))
    one = cell(epochs=3)
    folder = calibration._prepared(tmp_path, one, Profile("p", gpus=1))
    calibration.work(str(folder))
    assert (seen[0].train.log_every, seen[0].evaluation.knn_every) == (5, 0)
    (timed,) = calibrations(tmp_path)
    assert (
        timed.pace == 128 / 128.0
    )  # batch over the median rate of 256, 64 and 128: the first lap warms up, 20 steps end
    assert estimate(tmp_path, [one], 1) == (pytest.approx(WORK), 0)
    (cost,) = costs(list(known(tmp_path)), [one], gpus=1, gpu_kind=None)
    assert (cost.runs, cost.source) == (0, "timed steps, readouts not counted")
    past(tmp_path, 5, (read_json(folder / schema.PACE) or {})["hardware"], 7.0)
    (cost,) = costs(list(known(tmp_path)), [one], gpus=1, gpu_kind=None)
    assert (cost.runs, cost.timed, cost.hours) == (1, 0, pytest.approx(7.0 * WORK / 3600))


def test_above_the_limit_it_asks_and_without_a_terminal_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = Profile("p", gpus=2, nodes=2)
    prospect = cast(LaunchPlan, SimpleNamespace(to_run=[cell(epochs=3)], root=tmp_path))
    with pytest.raises(
        ValueError, match=r"^--max-gpu-hours 5: the GPU-hours are unknown; add --yes if they are meant$"
    ):
        preview.check_hours(prospect, profile, 5, yes=False)
    past(tmp_path, 1, A100, 3600 / WORK, gpus=4)  # an hour on four GPUs
    with pytest.raises(ValueError, match=r"^--max-gpu-hours 3.9: the GPU-hours may be 4; add --yes if they are meant$"):
        preview.check_hours(prospect, profile, 3.9, yes=False)
    preview.check_hours(prospect, profile, 4.1, yes=False)
    preview.check_hours(prospect, profile, 0, yes=True)
    preview.check_hours(prospect, Profile("cpu"), 0, yes=False)  # no GPU, no GPU-hours
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    for answer in ("n", "y"):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        if answer == "n":
            with pytest.raises(ValueError, match="not confirmed, nothing was started"):
                preview.check_hours(prospect, profile, 3.9, yes=False)
        else:
            preview.check_hours(prospect, profile, 3.9, yes=False)


@pytest.mark.parametrize(
    ("memory", "load", "runs", "gain"),
    [
        (12.0, 35.0, 3, 100 / 35),
        (40.0, 10.0, 2, 2.0),
        (60.0, 10.0, 1, 1.0),
        (5.0, 98.0, 1, 1.0),
        (5.0, 70.0, 2, 100 / 70),
    ],
)
def test_as_many_share_a_gpu_as_fit_and_are_worth_it(
    tmp_path: Path, memory: float, load: float, runs: int, gain: float
) -> None:
    run = past(tmp_path, 0, A100, 1.0)
    looks = [(memory / 2, load - 3), (memory, load), (memory / 2, load + 2)]  # the most, and the median
    with run.journal() as journal:
        for step, (used, busy) in enumerate(looks, start=1):
            system = {"system/gpu_memory_percent": used, "system/gpu_percent": busy}
            journal.append({"step": step, "epoch": 0.0, "time": 0.0, "values": {}, "system": system})
    cells = [on_gpu(cell(seed=seed, epochs=3)) for seed in range(4)]
    advice = advise(list(known(tmp_path)), cells)
    assert advice is not None
    assert (advice.runs, advice.seen) == (runs, 1)
    assert advice.gain == pytest.approx(gain)
    alone = Profile("a", gpus=1)
    (line,) = [" ".join(preview.packing_lines(list(known(tmp_path)), cells, alone))]
    assert (f"--pack {runs} gives up to" in line) == (runs > 1)
    assert preview.packing_lines(list(known(tmp_path)), cells, replace(alone, pack=2)) == []


def test_no_advice_from_runs_that_saw_no_gpu_or_another_or_shared_it(tmp_path: Path) -> None:
    past(tmp_path, 0, A100, 1.0)
    cells = [on_gpu(cell(epochs=3))]
    assert advise(list(known(tmp_path)), cells) is None
    for seed, pack in ((1, 1), (2, 4)):
        run = past(tmp_path, seed, A100, 1.0)
        replace_json(run.path / schema.ENVIRONMENT, {"gpus": 1, "pack": pack})
        with run.journal() as journal:
            system = {"system/gpu_memory_percent": 20.0 * pack, "system/gpu_percent": 20.0 * pack}
            journal.append({"step": 1, "epoch": 0.0, "time": 0.0, "values": {}, "system": system})
    assert advise(list(known(tmp_path)), cells, "h100") is None
    advice = advise(list(known(tmp_path)), cells, "a100")
    assert advice is not None
    assert (advice.seen, advice.memory) == (1, 20.0)


def test_the_fullest_gpu_counts() -> None:
    slots = [Slot(n, {"CUDA_VISIBLE_DEVICES": str(n % 2)}) for n in range(5)]
    assert share_a_gpu(slots) == 3
    assert share_a_gpu([Slot(0, {}), Slot(1, {})]) == 1
