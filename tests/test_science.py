"""The effects that the digits can show, through the real command: v1's momentum ablation, and the baseline's accuracy.

The margins, 10 and 3 points, are about half or less of what was measured (kNN 97.8, 89.5 and 77.9 for m = 0.99, 0.9 and 0),
since three seeds of 360 test images scatter by points.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.store import schema

ROOT = Path(__file__).parent.parent


def command(runs: Path, *words: str) -> str:
    environment = os.environ | {"MOCO_RUNS": str(runs), "MOCO_TRACKING": "off"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    command(folder, "sweeps.momentum", "--yes", "--only", "m=0", "m=0.9", "m=0.99")
    command(folder, "sweeps.momentum", "--yes", "--seeds", "5", "--only", "m=0.99")
    return folder


@pytest.fixture(scope="module")
def table(runs: Path) -> dict[str, dict[str, str]]:
    text = command(runs, "analysis", "table", "momentum", "--format", "csv")
    return {row["arm"]: row for row in csv.DictReader(io.StringIO(text))}


def test_a_fast_key_encoder_fails(table: dict[str, dict[str, str]]) -> None:
    knn = {arm: float(table[arm]["knn20_top1_mean"]) for arm in ("m=0", "m=0.9", "m=0.99")}
    assert knn["m=0.99"] - knn["m=0"] > 10
    assert knn["m=0.99"] - knn["m=0.9"] > 3


def test_without_momentum_the_loss_stays_at_chance(runs: Path) -> None:
    manifest = json.loads((runs / schema.SWEEPS_FOLDER / "momentum@digits.json").read_text())
    folders = [runs / cell["run_id"] for cell in manifest["cells"] if cell["arm"] == "m=0" and cell["seed"] < 3]
    last = []
    for folder in folders:
        lines = [json.loads(line) for line in (folder / schema.JOURNAL).read_text().splitlines()]
        last.append([r["values"]["train/loss_over_chance"] for r in lines if "train/loss" in r.get("values", {})][-1])
    assert len(last) == 3
    assert sum(last) / 3 > 0.9


def test_the_digits_baseline_over_five_seeds(table: dict[str, dict[str, str]], runs: Path) -> None:
    row = table["m=0.99"]
    assert row["n_done"] == "5"
    assert float(row["linear_top1_mean"]) >= 97
    assert float(row["knn20_top1_mean"]) >= 95


def test_missing_cells_are_missing(table: dict[str, dict[str, str]]) -> None:
    """Arms that were left out are planned, not done, and have no number."""
    row = table["m=0.999"]
    assert (row["n_done"], row["n_planned"], row["linear_top1_mean"]) == ("0", "5", "")
