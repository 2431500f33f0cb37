"""`make gpu`, rehearsed where there is no GPU: every row is computed at toy size, and none ends with an error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.gpu import PARTS, USUAL

ROWS = {  # of the parts that take seconds; `loop` and `cifar` are whole trainings
    "devices": {"recipe": {"digits"}},
    "digits": {"mode": {"fp32 eager", "fp32 graphs", "on the CPU"}},
    "step": {
        "mode": {
            "fp32 eager",
            "bf16 eager",
            "plain, fp32",
            "plain, autocast bf16",
            "bf16 graphs",
            "bf16 compiled",
            "fp32 graphs",
        }
    },
    "vit": {"mode": {"bf16 graphs", "bf16 compiled"}},
    "readouts": {"readout": {"knn", "linear"}},
}


def rehearsed(out: Path, *arguments: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "tests.benchmarks.gpu", *arguments]
    environment = {**os.environ, "OUT": str(out), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in (out / "gpu.jsonl").read_text().splitlines()]
    assert [json.loads(line) for line in result.stdout.splitlines()] == lines  # printed as they come, and kept
    return lines


def test_each_row_is_there_without_an_error(tmp_path: Path) -> None:
    lines = rehearsed(tmp_path, "--total", "3600", *(f"{part}:1800" for part in ROWS))
    assert not [line for line in lines if "error" in line or "ended" in line or "skipped" in line]
    for part, wanted in ROWS.items():
        of_part = [line for line in lines if line["part"] == part]
        assert "seconds" in of_part[-1], part
        for key, values in wanted.items():
            assert {line[key] for line in of_part if key in line} == values
    assert {line["largest_relative"] for line in lines if line["part"] == "devices"} <= {0.0}  # a CPU against itself


def test_what_has_no_time_left_is_said_and_a_row_that_takes_longer_is_ended(tmp_path: Path) -> None:
    lines = rehearsed(tmp_path, "--total", "6", "repeats:0.5", "step:60", "vit:60")
    assert {line["part"] for line in lines if "skipped" in line} >= {"repeats"}  # under five seconds are none
    assert [line["part"] for line in lines if "skipped" in line or "ended" in line][-1] == "vit"


def test_the_command_plans_every_part_the_most_important_first_within_eight_minutes() -> None:
    planned = [part.rpartition(":") for part in USUAL]
    assert {name for names, _, _ in planned for name in names.split("+")} == set(PARTS)
    makefile = Path(__file__).parents[1].joinpath("Makefile").read_text()
    total = re.search(r"tests\.benchmarks\.gpu --total (\d+)", makefile)
    assert total is not None
    assert int(total[1]) <= 480
    assert planned[0][0].split("+")[0] == "tests"


def test_a_part_that_is_none_is_one_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu", "stepp:10"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "stepp: no such part; there are tests, repeats, devices" in result.stderr
