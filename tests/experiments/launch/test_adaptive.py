"""`--until-significant`, end to end with stand-in runs. Oracle: which seeds each arm has at the end, and why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.commands import sweep as command
from experiments.plan.baselines import digits
from experiments.plan.manifest import add_seeds, write_manifest
from experiments.plan.sweep import Plan, Sweep, plan
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.manifests import all_manifests, read_manifest
from moco.config import Queue
from tests.support.stand_in_runs import ROOT, environment

STAND_IN = (sys.executable, str(ROOT / "tests/support/stand_in.py"), "sweep")


def stand_in(root: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = environment(MOCO_RUNS=str(root), STAND_IN_BETTER="512", **more)
    command = [*STAND_IN, "--set", "train.epochs=1", "train.device=cpu", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=root.parent)


def seeds(root: Path, state: str = schema.DONE) -> dict[str, list[int]]:
    (manifest,) = all_manifests(root)
    found: dict[str, list[int]] = {arm: [] for arm in manifest["arms"]}
    for cell in manifest["cells"]:
        if state_of(root / cell["run_id"]).state == state:
            found[cell["arm"]].append(cell["seed"])
    return found


def test_seeds_go_to_the_arms_that_are_not_told_apart_and_to_the_baseline(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    result = stand_in(root, "--until-significant", "--max-seeds", "8")
    assert result.returncode == 0, result.stderr
    (manifest,) = all_manifests(root)
    assert manifest["max_seeds"] == 8
    decided_at = len(seeds(root)["K=512"])
    assert 5 <= decided_at < 8  # it is better by 5 points, its neighbour by none
    assert seeds(root) == {
        "K=128": list(range(8)),
        "K=256": list(range(8)),
        "K=512": list(range(decided_at)),
        schema.RANDOM_INIT: list(range(5)),
    }
    assert all(not cells for cells in seeds(root, schema.MISSING).values())  # nobody plans what nobody needs
    said = " ".join(result.stdout.split())
    assert "at 8 seeds, the most allowed, not told apart or in an open part of the claim: K=256" in said
    assert re.search(r"K=512 +\d/\d .* higher by 5\.\d", result.stdout)
    assert "whatever number of seeds one stops" in " ".join(result.stdout.split()).replace("- ", "")

    again = stand_in(root, "--until-significant", "--max-seeds", "8")
    assert "started" not in again.stdout
    more = stand_in(root, "--until-significant", "--max-seeds", "9", "--max-parallel", "2")
    assert "started   K=256 seed 8" in more.stdout
    assert seeds(root)["K=256"] == list(range(9))
    assert seeds(root)["K=512"] == list(range(decided_at))
    plain = stand_in(root, "--dry-run", "--seeds", "5")
    assert plain.returncode == 0, plain.stderr
    stand_in(root, "--seeds", "5")
    assert seeds(root)["K=512"] == list(range(decided_at))
    assert not any(seeds(root, schema.MISSING).values())  # the plain command keeps the plan as it has grown


def test_runs_that_fail_do_not_keep_it_going_for_ever(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    result = stand_in(root, "--until-significant", "--max-seeds", "6", STAND_IN_FAIL="256")
    assert result.returncode == 1
    assert seeds(root, schema.FAILED)["K=256"] == list(range(5))  # of survivors no seed makes a claim: none is added
    said = " ".join(result.stdout.split())
    assert "no number of seeds makes a claim about K=256: pairs of theirs failed" in said
    assert "of the other arms each is told apart from the baseline" in said


def test_an_interrupted_round_is_gone_on_with(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    stand_in(root, "--until-significant", "--max-seeds", "6")
    gone = next(c for c in all_manifests(root)[0]["cells"] if (c["arm"], c["seed"]) == ("K=256", 5))
    for file in (root / gone["run_id"]).iterdir():
        file.unlink()
    os.rmdir(root / gone["run_id"])
    result = stand_in(root, "--until-significant", "--max-seeds", "6")
    assert [line for line in result.stdout.splitlines() if line.startswith("started")] == ["started   K=256 seed 5"]


def test_with_looks_a_round_is_five_seeds_and_the_plan_is_fixed_beforehand(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    result = stand_in(root, "--until-significant", "--looks", "pocock", "--max-seeds", "10")
    assert result.returncode == 0, result.stderr
    (manifest,) = all_manifests(root)
    assert (manifest["looks"], manifest["max_seeds"]) == ({"kind": "pocock", "at": [5, 10]}, 10)
    assert seeds(root) == {
        "K=128": list(range(10)),
        "K=256": list(range(10)),
        "K=512": list(range(5)),  # better by 5 points: told apart at the first look
        schema.RANDOM_INIT: list(range(5)),
    }
    assert "planned looks at 5 and 10 pairs (bounds of Pocock)" in " ".join(result.stdout.split()).replace("- ", "")
    other = stand_in(root, "--until-significant", "--looks", "obrien-fleming", "--max-seeds", "10")
    assert other.returncode == 2
    assert "this sweep was planned with pocock at 5, 10; give that again, with --max-seeds 10" in other.stderr
    again = stand_in(root, "--until-significant")
    assert "goes on with the looks that were planned, pocock" in again.stdout
    assert "started" not in again.stdout


def test_looks_are_not_planned_once_differences_can_be_read(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert stand_in(root, "--seeds", "2").returncode == 0
    before = (root / "sweeps").glob("*.json").__next__().read_bytes()
    late = stand_in(root, "--until-significant", "--looks", "pocock")
    assert late.returncode == 2
    assert "looks are planned before any result, and differences can be read at 2 seeds" in late.stderr
    assert (root / "sweeps").glob("*.json").__next__().read_bytes() == before


def planned(count: int) -> Plan:
    base = digits()
    sweep = Sweep(
        name="s",
        question="?",
        claim="!",
        varies=("negatives.size",),
        baseline="K=128",
        arms=lambda base: {f"K={k}": replace(base, negatives=Queue(k)) for k in (128, 256, 512)},
    )
    return plan(sweep, base, base_name="digits", preset=base, seeds=count)


def test_seeds_of_one_arm_stay_its_own_when_the_plan_is_written_again(tmp_path: Path) -> None:
    write_manifest(tmp_path, planned(2), "first")
    add_seeds(tmp_path, planned(4), planned(4).choose(["K=128", "K=256"]), 6)
    for again in (2, 1):
        write_manifest(tmp_path, planned(again), "again")
        manifest = read_manifest(tmp_path, "s@digits")
        assert manifest is not None
        found: dict[str, list[int]] = {}
        for cell in manifest["cells"]:
            found.setdefault(cell["arm"], []).append(cell["seed"])
        assert found == {"K=128": [0, 1, 2, 3], "K=256": [0, 1, 2, 3], "K=512": [0, 1], schema.RANDOM_INIT: [0, 1]}
        assert manifest["max_seeds"] == 6
    write_manifest(tmp_path, planned(3), "more")
    manifest = read_manifest(tmp_path, "s@digits")
    assert manifest is not None
    assert [c["seed"] for c in manifest["cells"] if c["arm"] == "K=512"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-seeds", "9"], "--max-seeds 9: says where --until-significant ends; add that, or use --seeds"),
        (
            ["--until-significant", "--max-seeds", "4"],
            "--max-seeds 4: must be at least 5, with fewer nothing is decided",
        ),
        (["--looks", "pocock"], "--looks pocock: is a plan for --until-significant; add that"),
        (
            ["--until-significant", "--looks", "pocock", "--max-seeds", "12"],
            "--looks pocock --max-seeds 12: looks are 5 seeds apart, so that must be a multiple of 5, 10 or more",
        ),
        (
            ["--until-significant", "--looks", "pocock", "--seeds", "9"],
            "--looks pocock --seeds 9: the looks say how many seeds; leave --seeds out",
        ),
        (["--until-significant", "--force"], "--until-significant: does not go with --force; leave one of them out"),
        (
            ["--until-significant", "--cluster", "debug"],
            "--until-significant: does not go with --cluster debug; leave one of them out",
        ),
        (
            ["--until-significant", "--cluster", "slurm"],
            "--until-significant: has to see the results of a round; on a cluster add --wait",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    from sweeps.queue_size import SWEEP

    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    assert command.run(SWEEP, arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []
