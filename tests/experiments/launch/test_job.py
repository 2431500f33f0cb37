"""What a job decides about its run. Oracle: attempts whose progress is given."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments.launch import job
from experiments.launch.cluster import idle_gpus
from experiments.launch.launch import Launch, enqueue
from experiments.plan.baselines import digits
from experiments.plan.baselines_published import cifar10_moco_v1
from experiments.plan.configs import config_of
from experiments.plan.overrides import apply
from experiments.plan.sweep import make_cell
from experiments.run.cluster import Profile
from experiments.run.machine import cores
from experiments.run.worker import attempt, way_of
from experiments.store import schema
from experiments.store.files import read_json, replace_json
from experiments.store.run import RunDirectory
from experiments.store.states import host, process_started
from moco.speed import Way, decide
from tests.support.stand_in import Paused, Record, Resumed
from tests.support.stand_in_runs import cell, prepared


def jobs_in_the_readouts(run: RunDirectory, kept: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt for each number: it does the last step, and its time is up when so much of the readouts is kept."""
    for done in kept:

        def train(config: object, run_dir: Path, stop: Any, way: object, done: int = done) -> Iterator[object]:
            yield Record(10, 1.0, {"train/loss": 0.5})
            os.kill(os.getpid(), signal.SIGUSR2)
            assert stop()
            yield Paused(12, 1.2, done)  # a record only every ten steps

        module = ModuleType("moco.train")
        vars(module).update(train=train, Record=Record, Resumed=Resumed, Paused=Paused)
        monkeypatch.setitem(sys.modules, "moco.train", module)
        assert attempt(run.path) == schema.PREEMPTED


@pytest.mark.parametrize(
    ("kept", "stuck"),
    [
        ([0, 4, 9, 15, 22], None),
        ([0, 4, 4, 4], None),  # two in vain
        ([0, 4, 4, 4, 4], 12),
        ([0, 4, 4, 4, 5], None),
        ([0, 0, 0, 0], 12),
    ],
)
def test_final_readouts_that_need_several_jobs_are_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: list[int], stuck: int | None
) -> None:
    run = prepared(tmp_path, cell())
    jobs_in_the_readouts(run, kept, monkeypatch)
    ends = [line for line in run.attempts() if line["event"] == "end"]
    assert [(end["step"], end["readouts"]) for end in ends] == [(12, done) for done in kept]
    assert job.stuck_at(run) == stuck
    status = run.status() or {}
    assert (status["step"], status["epoch"]) == (12, 1.2)


@pytest.mark.parametrize(("saved_in", "at"), [(1, 10), (2, None), (3, None)])
def test_deaths_in_the_readouts_are_not_in_vain_where_one_of_them_got_further(
    tmp_path: Path, saved_in: int, at: int | None
) -> None:
    """Three attempts, an hour apart. What the first one saved is where they all died."""
    run, now = prepared(tmp_path, cell()), time.time()
    for number in (1, 2, 3):
        begun = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now - 3600 * (4 - number)))
        run.append_attempt(schema.Attempt(event="start", attempt=number, time=begun))
        run.append_attempt(schema.Attempt(event="end", attempt=number, state=schema.LOST, step=10))
    assert job.died_in_vain(run) == 10
    (run.path / schema.STOPPED_READOUTS).write_bytes(b"what they had")
    moment = now - 3600 * (4 - saved_in) + 1800
    os.utime(run.path / schema.STOPPED_READOUTS, (moment, moment))
    assert job.died_in_vain(run) == at


@pytest.mark.parametrize(
    ("way", "gpus", "usable", "fits"),
    [
        (Way("cpu", "eager", "the digits"), 1, 0, True),  # decided for the sweep, whatever the profile asks for
        (Way("cuda", "graphs", "a long run"), 1, 0, False),
        (Way("cuda", "graphs", "a long run"), 1, 1, True),
        (Way("auto", "eager", "no GPU is asked for here"), 0, 0, True),
        (None, 1, 0, False),
    ],
)
def test_a_run_needs_the_gpu_of_the_profile_only_if_it_was_decided_to_train_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way | None, gpus: int, usable: int, fits: bool
) -> None:
    one = cell()
    run = prepared(tmp_path, make_cell("auto", 0, replace(one.config, train=replace(one.config.train, device="auto"))))
    run.describe({"way": way.record() if way else None}, "")
    monkeypatch.setenv(job.GPUS, str(gpus))
    why = job.without_gpu(run, lambda: usable)
    assert why == (None if fits else f"{os.uname().nodename} has no GPU that torch can use, and the profile asks for 1")


def test_a_run_that_was_decided_for_a_gpu_is_computed_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One store for a machine with a GPU and one without: the runs of both are trained on either."""
    run = prepared(tmp_path, cell())
    run.describe({"way": Way("cuda", "graphs", "a long run").record()}, "")
    config = apply(config_of(run), ["train.device=auto"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    here = way_of(run)
    assert here is not None
    assert (here.of(config).train.device, here.of(config).train.speed) == ("auto", "eager")
    assert here == decide([config], [1], gpus=0)  # as a launch on this machine decides
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("CC", "true")
    there = way_of(run)
    assert there is not None
    assert (there.of(config).train.device, there.of(config).train.speed) == ("cuda", "graphs")


def test_what_a_living_launcher_has_queued_keeps_the_words_of_its_machine(tmp_path: Path) -> None:
    one, parent = cell(), os.getppid()
    enqueue(tmp_path, one, {"way": "of the first"})
    run = RunDirectory(tmp_path / one.run_id)
    for pid, started, words in ((parent, process_started(parent), "of the first"), (parent, 1, "of the second")):
        status = schema.Status(state=schema.QUEUED, host=host(), pid=pid, process_started=started)
        replace_json(run.path / schema.STATUS, status)  # `started` 1: of a process that has ended
        enqueue(tmp_path, one, {"way": "of the second"})
        assert (read_json(run.path / schema.ENVIRONMENT) or {})["way"] == words


def test_runs_that_are_put_on_the_cpu_take_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot for each core, without a GPU; on two GPUs others have one each. A profile's GPU that stays idle is said."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("CC", "true")
    small = [make_cell("small", seed, digits()) for seed in range(100)]
    large = [make_cell("large", seed, cifar10_moco_v1()) for seed in range(100)]
    slots = {cells[0].arm: Launch(tmp_path, "x", cells, "command").slots(None) for cells in (small, large)}
    assert len(slots["small"]) == cores()
    assert not any("CUDA_VISIBLE_DEVICES" in slot.environment for slot in slots["small"])
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots["large"]] == ["0", "1"]
    profile = Profile("mine", gpus=1)
    assert " ".join(idle_gpus(small, profile)) == (
        "warning: the GPU stays idle that profile mine gives each run: eager steps on the CPU: six epochs of the digits took "
        "2.6 s on a CPU and 5.2 s on an H100; train.device=cuda uses the GPU. A profile without gpus would do."
    )
    assert idle_gpus(large, profile) == idle_gpus(small, Profile("mine")) == []


@pytest.mark.parametrize("ahead", [0.0, 60.0], ids=["clocks agree", "the other clock is ahead"])
@pytest.mark.parametrize("beats", [True, False])
def test_a_run_is_at_work_elsewhere_as_long_as_its_heart_beats(ahead: float, beats: bool, tmp_path: Path) -> None:
    """Its lock does not reach this machine. Oracle: a thread that writes the heartbeat, or the lack of one."""
    run, ended = prepared(tmp_path, cell()), threading.Event()
    replace_json(run.path / schema.STATUS, {"state": schema.RUNNING, "host": "elsewhere"})

    def beat() -> None:
        (run.path / schema.HEARTBEAT).touch()
        os.utime(run.path / schema.HEARTBEAT, (time.time() + ahead,) * 2)

    def beat_on() -> None:
        while not ended.wait(0.05):
            beat()

    beat()
    other = threading.Thread(target=beat_on)
    if beats:
        other.start()
    try:
        assert job.alive_elsewhere(run, patience=30.0 if beats else 0.5) == beats
        replace_json(run.path / schema.STATUS, {"state": schema.RUNNING, "host": host()})
        assert not job.alive_elsewhere(run, patience=30.0)  # here its lock tells
    finally:
        ended.set()
        if beats:
            other.join()
