"""The documented names are those that a run really has, and few enough to be charted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.plan.baselines import digits
from experiments.plan.configs import create
from experiments.plan.overrides import apply
from experiments.run import system, worker
from experiments.run.system import SystemMetrics, usage_of_processes
from experiments.store import metrics, schema
from experiments.store.files import Appender
from experiments.store.run import RunDirectory
from experiments.tracking.mirror import mirrored, values_of
from experiments.tracking.notes import names_markdown
from moco.data.catalog import resolve
from tests.support.stand_in_runs import ROOT

MOST_KEYS = 20  # the UI slows down with more; system metrics have a page of their own


def test_the_committed_names_are_those_of_the_code() -> None:
    """Oracle: the code's own records, in a process of its own. What is out of date is written anew, to be committed."""
    made = [ROOT / "experiments/NAMES.md", metrics.FILE]
    before = [file.read_text() for file in made]
    subprocess.run([sys.executable, "-m", "experiments", "names", "--write"], check=True, cwd=ROOT)
    assert [file.read_text() for file in made] == before, "was out of date and has been written anew: commit it"
    printed = subprocess.run(
        [sys.executable, "-m", "experiments", "names"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert printed == before[0] == names_markdown()
    for name in (*schema.METRICS, *schema.TAGS, *schema.RUN_ARTIFACTS):
        assert f"| `{name}` | " in printed


def test_keys_are_grouped_by_a_slash() -> None:
    assert [key for key in mirrored() if key.count("/") != 1] == []


class Clock:
    """Processor seconds that the training thread spends in the functions it is put around."""

    def __init__(self) -> None:
        self.spent, self.calls = 0.0, 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                self.spent += time.thread_time() - began
                self.calls += 1

        return timed


def test_a_real_run_has_few_keys_its_machine_is_measured_and_tracking_costs_it_less_than_a_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a run does for its tracking is to write its journal and status and to look at the machine."""
    clock = Clock()
    monkeypatch.setattr(system, "FIRST_SECONDS", 0.0)  # a fast machine has trained the two epochs within a second
    for owner, name in ((Appender, "append"), (worker._Attempt, "_write_status"), (SystemMetrics, "due")):
        monkeypatch.setattr(owner, name, clock.around(getattr(owner, name)))
    config = apply(digits(), ["train.epochs=2", "train.device=cpu"])
    run = RunDirectory(tmp_path / "run")
    create(run, type(config)(**{**vars(config), "data": resolve(config.data)}))
    began = time.process_time()
    assert worker.attempt(run.path) == schema.DONE
    share = clock.spent / (time.process_time() - began)
    print(f"tracking took {100 * share:.3f} % of the run's processor time, in {clock.calls} calls")
    assert clock.calls > 5
    assert share < 0.01

    keys = {key for record in run.records() for key in values_of(record)}
    assert 12 <= len(keys & set(schema.METRICS)) <= MOST_KEYS
    assert {"system/cpu_percent", "system/memory_mb"} <= keys


def test_processor_time_and_memory_are_those_of_the_process_and_its_children() -> None:
    """Oracle: the kernel's own account of a child that computes for half a second and holds 200 MB."""
    code = "import time; x = b'x' * 200_000_000; print('ready', flush=True)\nwhile time.process_time() < 0.5: pass\n"
    code += "print(time.process_time(), flush=True); input()"
    pipe = subprocess.PIPE
    seconds_before, memory_before = usage_of_processes(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        used = float(child.stdout.readline())
        seconds, memory = usage_of_processes(os.getpid())
        child.communicate("\n")
    assert used - 0.05 < seconds - seconds_before < used + 0.5
    assert 200e6 < memory - memory_before < 300e6
