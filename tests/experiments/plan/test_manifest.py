"""Plans of one label grow together. Oracle: the merged plan, written out."""

from __future__ import annotations

import json
import multiprocessing
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.plan.baselines import digits
from experiments.plan.manifest import write_manifest
from experiments.plan.sweep import Plan, Sweep, plan
from experiments.store import schema
from experiments.store.manifests import all_manifests, read_manifest
from moco.config import Config, Queue
from moco.config.plain import from_plain, run_id


def planned(*sizes: int, seeds: int = 1, base: Config | None = None) -> Plan:
    base = base or digits()
    sweep = Sweep(
        name="s",
        question="?",
        claim="!",
        varies=("negatives.size",),
        axis="negatives.size",
        baseline=f"K={sizes[0]}",
        arms=lambda base: {f"K={k}": replace(base, negatives=Queue(k)) for k in sizes},
        published={"K=256": 50.0, "K=1": 9.9},
    )
    return plan(sweep, base, base_name="digits", preset=base, seeds=seeds)


def cells(manifest: schema.Manifest) -> list[tuple[str, int]]:
    return [(c["arm"], c["seed"]) for c in manifest["cells"]]


def test_a_plan_is_written_as_it_is(tmp_path: Path) -> None:
    written = write_manifest(tmp_path, planned(128, 256, seeds=2), "python sweeps/s.py --seeds 2")
    text = (tmp_path / "sweeps/s@digits.json").read_bytes()
    begin, _, _ = text.rpartition(b',\n "crc32"')
    assert json.loads(text) == {**written, "crc32": f"{zlib.crc32(begin):08x}"}
    assert written == read_manifest(tmp_path, "s@digits")
    assert cells(written) == [(arm, seed) for arm in ("K=128", "K=256", "random init") for seed in (0, 1)]
    assert written["axis_values"] == {"K=128": 128.0, "K=256": 256.0}
    assert written["published"] == {"K=256": 50.0}
    assert (written["baseline"], written["command"]) == ("K=128", "python sweeps/s.py --seeds 2")
    for cell in written["cells"]:
        assert run_id(from_plain(Config, cell["config"])) == cell["run_id"]
        assert cell["config"]["train"]["seed"] == cell["seed"]


def test_seeds_and_arms_of_earlier_plans_stay(tmp_path: Path) -> None:
    write_manifest(tmp_path, planned(128, 512, seeds=3), "first")
    merged = write_manifest(tmp_path, planned(128, 256, seeds=1), "second")
    assert (merged["arms"], merged["seeds"]) == (["K=128", "K=256", "K=512", "random init"], [0, 1, 2])
    assert cells(merged) == [(arm, seed) for arm in merged["arms"] for seed in (0, 1, 2)]
    assert merged["axis_values"] == {"K=128": 128.0, "K=256": 256.0, "K=512": 512.0}
    assert merged["command"] == "second"
    again = planned(128, 256, 512, seeds=3)
    assert {c["run_id"] for c in merged["cells"]} == {c.run_id for c in again.cells()}


def test_arms_of_a_baseline_that_has_changed_since_do_not_stay(tmp_path: Path) -> None:
    write_manifest(tmp_path, planned(128, 512, seeds=2), "first")
    other = replace(digits(), optim=replace(digits().optim, lr=0.5))
    merged = write_manifest(tmp_path, planned(128, 256, base=other), "second")
    assert merged["arms"] == ["K=128", "K=256", "random init"]
    assert merged["seeds"] == [0, 1]
    assert {c["config"]["optim"]["lr"] for c in merged["cells"] if c["arm"] != "random init"} == {0.5}


def _write(root: str, seeds: int) -> None:
    write_manifest(Path(root), planned(128, 256, seeds=seeds), str(seeds))


def test_two_launchers_at_a_time_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    launchers = [context.Process(target=_write, args=(str(tmp_path), seeds)) for seeds in (1, 4)]
    for launcher in launchers:
        launcher.start()
    for launcher in launchers:
        launcher.join()
    manifest = read_manifest(tmp_path, "s@digits")
    assert manifest is not None
    assert manifest["seeds"] == [0, 1, 2, 3]


def test_a_manifest_of_a_newer_program_is_refused_and_a_damaged_one_named(tmp_path: Path) -> None:
    write_manifest(tmp_path, planned(128), "x")
    path = tmp_path / "sweeps/s@digits.json"
    newer = json.loads(path.read_text()) | {"store_version": 99}
    path.write_text(json.dumps(newer))
    with pytest.raises(ValueError, match=r"store version 99 is newer than this program's 1; update it"):
        all_manifests(tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"s@digits\.json: damaged, not JSON"):
        read_manifest(tmp_path, "s@digits")


def test_a_damaged_manifest_is_left_out_named_and_written_anew_by_its_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path, planned(128), "x")
    path = tmp_path / "sweeps/s@digits.json"
    sound = path.read_bytes()
    path.write_bytes(sound.replace(b'"seed":0', b'"seed":1', 1))  # a valid number, and another
    assert all_manifests(tmp_path) == []
    assert "s@digits.json: damaged, its content is not what its checksum says" in capsys.readouterr().err
    written = write_manifest(tmp_path, planned(128), "x")
    assert all_manifests(tmp_path) == [written]
    (kept,) = (tmp_path / "sweeps").glob("s@digits.json.damaged-*")
    assert kept.name in capsys.readouterr().err


def finish(root: Path, manifest: schema.Manifest, *places: tuple[str, int]) -> None:
    """Results of these runs, as far as a plan looks at them."""
    for cell in manifest["cells"]:
        if (cell["arm"], cell["seed"]) in places:
            (root / cell["run_id"]).mkdir(exist_ok=True)
            (root / cell["run_id"] / schema.RESULTS).write_text("{}")


def joined(manifest: schema.Manifest) -> list[tuple[list[int], int]]:
    return [(one["seeds"], one["seen"]) for one in manifest["joined"]]


def test_seeds_that_join_once_a_difference_can_be_read_are_on_record(tmp_path: Path) -> None:
    """By hand: a difference needs two trained arms with a result at one seed."""
    first = write_manifest(tmp_path, planned(128, 256, seeds=2), "first")
    assert joined(first) == []
    finish(tmp_path, first, ("K=128", 0), ("K=128", 1), ("random init", 0), ("random init", 1), ("K=256", 1))
    assert joined(write_manifest(tmp_path, planned(128, 256, seeds=2), "again")) == []
    assert joined(write_manifest(tmp_path, planned(128, 256, 512, seeds=2), "a further arm")) == []
    more = write_manifest(tmp_path, planned(128, 256, seeds=5), "more")
    assert joined(more) == [([2, 3, 4], 1)]
    assert joined(write_manifest(tmp_path, planned(128, 256, seeds=3), "fewer")) == [([2, 3, 4], 1)]
    finish(tmp_path, more, ("K=256", 0))
    assert joined(write_manifest(tmp_path, planned(128, 256, seeds=6), "most")) == [([2, 3, 4], 1), ([5], 2)]


def test_seeds_that_join_before_any_difference_are_planned_ones(tmp_path: Path) -> None:
    first = write_manifest(tmp_path, planned(128, 256, seeds=2), "first")
    finish(tmp_path, first, ("K=128", 0), ("random init", 0), ("K=256", 1))
    assert joined(write_manifest(tmp_path, planned(128, 256, seeds=5), "more")) == []


def test_results_that_another_sweep_made_are_seen_too(tmp_path: Path) -> None:
    whole = planned(128, 256, seeds=2)
    for cell in whole.cells():
        if cell.seed == 0:
            (tmp_path / cell.run_id).mkdir()
            (tmp_path / cell.run_id / schema.RESULTS).write_text("{}")
    assert joined(write_manifest(tmp_path, whole, "first")) == [([1], 1)]


def test_a_plan_of_an_older_program_does_not_say_that_nothing_joined(tmp_path: Path) -> None:
    written = write_manifest(tmp_path, planned(128, 256, seeds=2), "first")
    old = {name: value for name, value in written.items() if name != "joined"}
    (tmp_path / "sweeps/s@digits.json").write_text(json.dumps(old))
    again = write_manifest(tmp_path, planned(128, 256, seeds=3), "more")
    assert "joined" not in again
    finish(tmp_path, again, ("K=128", 0), ("K=256", 0))
    assert joined(write_manifest(tmp_path, planned(128, 256, seeds=4), "most")) == [([3], 1)]


def test_seeds_that_join_under_a_new_name_are_on_record_too(tmp_path: Path) -> None:
    first = write_manifest(tmp_path, planned(128, 256, seeds=2), "first")
    finish(tmp_path, first, ("K=128", 0), ("K=256", 0))
    more = planned(128, 256, seeds=3)
    names = {"K=128": "short", "K=256": "long"}
    renamed = replace(
        more,
        arms={names.get(arm, arm): config for arm, config in more.arms.items()},
        baseline=names.get(more.baseline, more.baseline),
    )
    written = write_manifest(tmp_path, renamed, "more")
    assert [event["was"] for event in written["history"]] == ["K=128", "K=256"]
    assert joined(written) == [([2], 1)]
