"""A run is fine-tuned by one process at a time, and a sweep's worker keeps a log. Oracles: a held lock, what was said."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import main
from experiments.evaluate.transfer import run as one
from experiments.evaluate.transfer.run import run_recorded
from experiments.evaluate.transfer.spec import Job, changed, log_file, record_file
from experiments.evaluate.transfer.worker import report
from experiments.store import schema
from moco.config import Data
from moco.transfer.recipes import recipe_for
from tests.experiments.evaluate.test_transfer_cli import SHORT, finished, recorded, runs, small
from tests.support.analysis_runs import manifest, write_manifest

__all__ = ["runs"]

JOB = Job(changed(recipe_for("segmentation", "scenes"), SHORT[1:]))


@contextmanager
def held(run: Path) -> Iterator[None]:
    """By somebody else: a lock is of the opened file, not of the process."""
    lock = record_file(run, JOB).with_suffix(".lock")
    lock.parent.mkdir(exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_run_that_another_process_fine_tunes_is_left_to_it(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(runs, small())
    arguments = ["transfer", str(run), "--task", "segmentation", *SHORT]
    words = f"{run}: another process is at segmentation on scenes, test split with it"
    with held(run):
        assert main(arguments) == 1
        said = capsys.readouterr()
        assert (said.out, said.err) == (f"{words}; nothing was begun\n", "")
        assert report(run, JOB) == {"run": str(run), "error": words}
        other = Job(JOB.recipe, on="validation")
        assert run_recorded(run, other, print) is not None
    assert not record_file(run, JOB).exists()
    assert main(arguments) == 0
    assert record_file(run, JOB).exists()


def test_a_record_that_was_written_just_before_the_lock_was_free_is_taken(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real, lines = finished(runs, small()), one.fine_tuning, list[str]()

    @contextmanager
    def late(run: Path, job: Job) -> Iterator[None]:
        with real(run, job):
            recorded(runs, small(), job, {"miou": 12.5})
            yield

    monkeypatch.setattr(one, "fine_tuning", late)
    assert run_recorded(run, JOB, lines.append) == {"miou": 12.5}
    assert lines == []


def test_a_run_that_cannot_be_written_is_refused_before_anything_is_trained(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder in the lock's place: also who may do everything cannot open it."""
    run = finished(runs, small())
    record_file(run, JOB).with_suffix(".lock").mkdir(parents=True)
    assert main(["transfer", str(run), "--task", "segmentation", *SHORT]) == 2
    said = capsys.readouterr()
    assert said.err == (
        f"error: {run / 'transfer'}: Is a directory: the run can keep no record; fine-tune its encoder.pt, which only prints\n"
    )
    assert said.out == ""


def test_what_a_worker_says_is_in_the_log_that_its_error_names(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(runs, small())
    real, log = one.run_job, log_file(run, JOB)

    def unlucky(*given: Any) -> one.Scores:
        real(*given)
        raise RuntimeError("CUDA is out of luck\nand more")

    monkeypatch.setattr(one, "run_job", unlucky)
    for _ in range(2):
        error = report(run, JOB)["error"]
        assert error.startswith("RuntimeError: CUDA is out of luck")
        assert error.endswith(f"; log: {log}")
        assert "\n" not in error
    monkeypatch.undo()
    monkeypatch.setenv("MOCO_RUNS", str(runs))
    written = log.read_text()
    assert written.count(" iteration 2/2") == 2
    assert written.count("RuntimeError: CUDA is out of luck\nand more\n") == 2
    assert written.count(" Traceback (most recent call last):\n") == 2


def test_one_gpu_of_several_is_refused_for_the_runs_of_a_sweep(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells: list[schema.Cell] = []
    for seed in (0, 1):
        run = finished(runs, replace(small(seed), data=Data(name="digits", image_size=8)))
        cells.append({"arm": "m=0.99", "seed": seed, "run_id": run.name, "config": {}})
    planned = manifest({"m=0.99": [0, 1]}, label="one@digits", name="one")
    write_manifest(runs, {**planned, "cells": cells})
    assert main(["transfer", "one", "--task", "segmentation", *SHORT, "--device", "cuda:1"]) == 2
    said = capsys.readouterr()
    assert said.err == "error: --device cuda:1: the runs of a sweep share out all GPUs; say cuda, or choose one run\n"
    assert said.out == ""
