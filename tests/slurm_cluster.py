"""A real Slurm for a test module, and ways to look at it. Import the fixture `cluster` to use it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from experiments.manifest import all_manifests
from experiments.reconcile import RunState, state_of
from experiments.run_directory import RunDirectory
from slurm.dev_cluster import DevCluster, refusal
from tests.parts import require_part
from tests.stand_in_runs import ROOT, environment, wait_until

MAX_ARRAY_SIZE = 5  # six runs are an array and a single job
QUEUE_SIZE = (sys.executable, str(ROOT / "sweeps/queue_size.py"))
STAND_IN = (sys.executable, "-m", "tests.stand_in_slurm", "--set", "train.device=cpu")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    require_part("sbatch")
    if why := refusal():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    made = DevCluster(tmp_path_factory.mktemp("slurm") / "cluster", max_array_size=MAX_ARRAY_SIZE)
    made.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(made.conf))
        patch.setenv("PATH", made.environment()["PATH"])
        yield made
    made.stop(keep=True)
    assert made.processes() == []


def run(
    command: tuple[str, ...],
    root: Path,
    *arguments: str,
    code: int = 0,
    env: Mapping[str, str] | None = None,
    **more: str,
) -> subprocess.CompletedProcess[str]:
    said = subprocess.run(
        [*command, *arguments], env=environment(MOCO_RUNS=str(root), **(env or {}), **more), cwd=root.parent, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == code, f"{said.returncode}\n{said.stdout}\n{said.stderr}"
    return said


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def queue() -> list[str]:
    return slurm("squeue", "--noheader", "--array", "--format=%i %T %r").splitlines()


def states(root: Path) -> dict[str, RunState]:
    """ "K=128 0" -> its state, of all cells that were begun or queued."""
    (manifest,) = all_manifests(root)
    found = {f"{c['arm']} {c['seed']}": state_of(root / c["run_id"]) for c in manifest["cells"]}
    return {name: state for name, state in found.items() if state.state != "missing" or state.reason}


def runs(root: Path) -> dict[str, RunDirectory]:
    (manifest,) = all_manifests(root)
    found = {f"{c['arm']} {c['seed']}": RunDirectory(root / c["run_id"]) for c in manifest["cells"]}
    return {name: run for name, run in found.items() if run.exists()}


def job_of(run: RunDirectory) -> str:
    return (run.status() or {}).get("job") or ""


def release(job: str) -> None:
    """A requeued job waits for two minutes, by Slurm's own rule; this one need not."""
    if any(line.startswith(f"{job} PENDING") and "BeginTime" in line for line in queue()):
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True, check=False)


def until_the_queue_is_empty(seconds: float = 120.0, requeued: str | None = None) -> None:
    def empty() -> bool:
        if requeued:
            release(requeued)
        return not queue()

    wait_until(empty, seconds)
