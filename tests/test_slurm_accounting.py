"""The throw-away Slurm with its accounts: `sacct` must know of a job what the job itself did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.dev_cluster import DevCluster, refusal
from tests.parts import require_part
from tests.stand_in_runs import ROOT, wait_until


def test_sacct_remembers_and_down_leaves_nothing(tmp_path: Path) -> None:
    for program in ("sbatch", "slurmdbd", "mariadbd"):
        require_part(program)
    if why := refusal(accounting=True):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    cluster = DevCluster(tmp_path / "cluster")  # who only looks needs no word of the accounts
    verb = [sys.executable, "-m", "slurm.dev_cluster"]
    try:
        subprocess.run([*verb, "up", "--accounting", "--folder", str(cluster.folder)], check=True, cwd=ROOT)
        environment = cluster.environment()
        subprocess.run(["srun", "--mem=10", "true"], env=environment, check=True, timeout=60)
        code = subprocess.run(
            ["srun", "--mem=10", "sh", "-c", "exit 3"], env=environment, check=False, timeout=60
        ).returncode
        wait_until(lambda: _accounts(environment) == ["1|COMPLETED|0:0", f"2|FAILED|{code}:0"])
    finally:
        subprocess.run([*verb, "down", "--folder", str(cluster.folder)], check=True, cwd=ROOT)
    assert cluster.processes() == []
    assert not cluster.folder.exists()


def _accounts(environment: dict[str, str]) -> list[str]:
    said = subprocess.run(
        ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode"], env=environment,
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return said.stdout.splitlines()
