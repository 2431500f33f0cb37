"""A store whose arms and fields have changed since: tests/fixtures/store_changed. Oracle: its numbers, written out."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from analysis.ablation import ablation_table
from analysis.formats import render
from analysis.frame import load_sweep
from experiments.__main__ import main as experiments
from experiments.commands import sweep as command
from experiments.plan.baselines import digits
from experiments.plan.manifest import events_of, write_manifest
from experiments.plan.orphans import orphans
from experiments.plan.sweep import Plan, Sweep, plan
from experiments.store import schema
from experiments.store.manifests import former_names, read_manifest
from moco.config import Momentum, Negatives, Queue, kinds
from moco.config.fields import added
from moco.config.plain import run_id

HERE = Path(__file__).parents[2] / "fixtures" / "store_changed" / "store"
MEANS = {"small": 90.5, "middle": 90.6, "large": 92.05, schema.RANDOM_INIT: 80.5}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(HERE, tmp_path / "store")
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "400")
    return tmp_path / "store"


def sizes(name: str, arms: dict[str, int]) -> Sweep:
    return Sweep(
        name=name,
        question="Does K matter?",
        claim="rises",
        varies=("negatives.size",),
        axis="negatives.size",
        baseline=next(iter(arms)),
        arms=lambda base: {arm: replace(base, negatives=Queue(k)) for arm, k in arms.items()},
        seeds=2,
    )


def expand(sweep: Sweep) -> Plan:
    return plan(sweep, digits(), base_name="digits", preset=digits())


def means(root: Path, name: str) -> dict[str, float]:
    text = render(ablation_table(*load_sweep(root, name)), "csv")
    rows = csv.DictReader(io.StringIO("".join(line for line in text.splitlines(True) if not line.startswith("#"))))
    return {row["arm"]: float(row["linear_top1_mean"]) for row in rows if row["linear_top1_mean"]}


def test_renamed_arms_stand_once_with_all_their_runs(root: Path) -> None:
    assert means(root, "renamed") == pytest.approx(MEANS)
    manifest = read_manifest(root, "renamed@digits")
    assert manifest is not None
    assert [former_names(manifest, arm) for arm in ("small", "middle", "large")] == [["K=16"], ["K=32"], ["K=64"]]


def test_a_dropped_arm_is_named_and_comes_back_with_its_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiments(["status", "renamed"]) == 0
    printed = capsys.readouterr().out
    assert "2 runs in no table (2 done):\n  renamed@digits  2 runs  no arm has negatives.size = 128 now (" in printed
    back = expand(sizes("renamed", {"small": 16, "middle": 32, "large": 64, "huge": 128}))
    write_manifest(root, back, "python sweeps/renamed.py")
    assert means(root, "renamed") == pytest.approx(MEANS | {"huge": 92.25})
    assert [one for one in orphans(root) if one.label == "renamed@digits"] == []


@pytest.mark.parametrize(
    ("name", "beginning", "why"),
    [
        ("renamed_field", "aaaa", "its config cannot be read: optim.rate = "),
        ("new_field", "bbbb", "its config cannot be read: evaluation.knn_temperature: missing (a run written by "),
    ],
)
def test_runs_of_other_fields_are_named_when_the_plan_leaves_them(
    name: str, beginning: str, why: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old plan's table stays readable; a new plan cannot take the runs over, and says which and why."""
    assert means(root, name) == pytest.approx({"K=16": 90.5, "K=32": 90.6, schema.RANDOM_INIT: 80.5})
    sweep = sizes(name, {"K=16": 16, "K=32": 32})
    assert command.run(sweep, ["--dry-run"]) == 0
    ahead = capsys.readouterr().out
    assert f"arm K=32 left out: {why}" in ahead
    changed = write_manifest(root, expand(sweep), "python sweeps/x.py")
    assert [line.partition(": ")[2].startswith(why) for line in events_of(changed)] == [True, True, True]
    left = [one for one in orphans(root) if one.label == f"{name}@digits"]
    assert sorted((one.arm, one.seed) for one in left) == [
        (arm, seed) for arm in ("K=16", "K=32", schema.RANDOM_INIT) for seed in (0, 1)
    ]
    assert all(one.run_id.startswith(beginning) and one.why.startswith(why) for one in left)
    for arguments in (["status", name], ["find", name], ["find", left[0].run_id], ["arms", name]):
        assert experiments(arguments) == 0
        assert why in capsys.readouterr().out, arguments


@pytest.fixture
def lagging() -> Iterator[type[Any]]:
    """A kind of negatives that got a field since. Old configs lack it; 0 is what they meant."""

    @dataclass(frozen=True)
    class Lagging(Negatives):
        size: int = 256
        lag: float = added(0.5, before=0.0)

        goes_with = (Momentum,)

    kinds._KINDS[Negatives]["lagging"] = Lagging
    yield Lagging
    del kinds._KINDS[Negatives]["lagging"]


def test_an_axis_on_a_field_that_old_runs_lack_has_them_at_the_old_meaning(tmp_path: Path, lagging: type[Any]) -> None:
    def lags(*values: float) -> Plan:
        sweep = Sweep(
            name="lag",
            question="Does a lag hurt?",
            claim="rises",
            varies=("negatives.lag", "negatives.size"),
            axis="negatives.lag",
            baseline=f"lag={values[0]:g}",
            arms=lambda base: {f"lag={v:g}": replace(base, negatives=lagging(256, v)) for v in values},
            seeds=2,
        )
        return plan(sweep, digits(), base_name="digits", preset=digits())

    def as_before(config: dict[str, Any]) -> dict[str, Any]:
        negatives = {k: v for k, v in config["negatives"].items() if k != "lag"}
        return {**config, "negatives": negatives}

    first = write_manifest(tmp_path, lags(0.0), "python sweeps/lag.py")
    cells = [
        {**cell, "arm": "as it was", "config": as_before(cell["config"])} if cell["arm"] == "lag=0" else {**cell}
        for cell in first["cells"]
    ]
    old = {**first, "axis": None, "axis_values": {}, "arms": ["as it was", schema.RANDOM_INIT], "baseline": "as it was"}
    old["cells"] = cells
    (tmp_path / "sweeps/lag@digits.json").write_text(json.dumps(old))
    for cell in cells:
        (tmp_path / cell["run_id"]).mkdir()
        (tmp_path / cell["run_id"] / schema.CONFIG).write_text(json.dumps(cell["config"]))
        (tmp_path / cell["run_id"] / schema.STATUS).write_text(json.dumps({"state": schema.DONE}))
        (tmp_path / cell["run_id"] / schema.RESULTS).write_text(
            json.dumps({"test": {schema.LINEAR: 90.0 + cell["seed"]}, "validation": {}, "seconds": 1.0})
        )
    merged = write_manifest(tmp_path, lags(0.0, 1.0), "python sweeps/lag.py")
    assert merged["axis_values"] == {"lag=0": 0.0, "lag=1": 1.0}
    assert [c["run_id"] for c in merged["cells"] if c["arm"] == "lag=0"] == [c["run_id"] for c in cells][:2]
    assert events_of(merged) == ["arm as it was is now lag=0: the same config, and its runs count"]
    assert means(tmp_path, "lag")["lag=0"] == 90.5
    assert cells[0]["config"]["negatives"] == {"kind": "lagging", "size": 256}
    assert run_id(replace(digits(), negatives=lagging(256, 1.0))) not in {c["run_id"] for c in cells}
