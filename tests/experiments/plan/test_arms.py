"""An arm is its config: renamed arms, dropped ones, other configs under an old name, and runs that count in no table.

Oracles: the table of the same runs with the other names written into it; the plan before a drop; reasons in full.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.ablation import ablation_table
from analysis.formats import render
from analysis.frame import load_sweep
from experiments.__main__ import main as experiments
from experiments.commands import sweep as command
from experiments.plan import arms, expectation
from experiments.plan.baselines import digits
from experiments.plan.manifest import change, check_file, events_of, write_manifest
from experiments.plan.orphans import orphans
from experiments.plan.sweep import Plan, Sweep, plan
from experiments.store import schema
from experiments.store.manifests import former_names, read_manifest
from experiments.store.schema import Manifest
from moco.config import Config, Queue
from moco.config.plain import to_plain

SEEDS = 5
SIZES = {"K=16": 16, "K=32": 32, "K=64": 64}
OTHER_NAMES = {"K=16": "S=16", "K=32": "S=32", "K=64": "S=64"}
# Percent at each seed. K=64 against K=16 has p_t = 0.0142: significant among two arms (Holm: 0.028), not among four.
LINEAR = {
    16: (90.0, 91.0, 90.5, 91.5, 90.2),
    32: (90.4, 90.8, 90.9, 91.3, 90.6),
    64: (91.0, 93.1, 91.6, 92.3, 91.0),
}


def sweep(sizes: Mapping[str, int] = SIZES, **more: Any) -> Sweep:
    options: dict[str, Any] = {
        "name": "s",
        "question": "Does K matter?",
        "shape": (expectation.order(list(sizes)[-1], next(iter(sizes))),),
        "varies": ("negatives.size",),
        "axis": "negatives.size",
        "baseline": next(iter(sizes)),
        "published": {list(sizes)[-1]: 60.0},
        **more,
    }
    return Sweep(arms=lambda base: {arm: replace(base, negatives=Queue(k)) for arm, k in sizes.items()}, **options)


def planned(sizes: Mapping[str, int] = SIZES, base: Config | None = None, seeds: int = SEEDS, **more: Any) -> Plan:
    base = base or digits()
    return plan(sweep(sizes, **more), base, base_name="digits", preset=base, seeds=seeds)


def train(root: Path, manifest: Manifest) -> None:
    """Finished runs with the numbers above; 80 for the untrained encoder."""
    for cell in manifest["cells"]:
        path = root / cell["run_id"]
        if path.exists():
            continue
        path.mkdir(parents=True)
        size = 0 if cell["arm"] == schema.RANDOM_INIT else cell["config"]["negatives"]["size"]
        percent = LINEAR[size][cell["seed"]] if size in LINEAR else 80.0
        for name, value in {
            schema.CONFIG: cell["config"],
            schema.STATUS: {"state": schema.DONE, "step": 10, "total_steps": 10},
            schema.RESULTS: {"test": {schema.LINEAR: percent}, "validation": {}, "seconds": 60.0, "steps": 10},
            schema.ENVIRONMENT: {"command": "python sweeps/s.py"},
        }.items():
            (path / name).write_text(json.dumps(value))


def tables(root: Path) -> dict[str, str]:
    """Without the seal, which is of names too."""
    made = ablation_table(*load_sweep(root, "s"))
    return {
        form: re.sub(r"[Ss]eal [0-9a-f]{12}|moco-seal[^\n]*", "", render(made, form, width=200))
        for form in ("text", "md", "tex", "csv", "html")
    }


def with_other_names(text: str) -> str:
    for old, new in OTHER_NAMES.items():
        text = text.replace(old, new)
    return text


def test_arms_that_were_renamed_change_the_names_in_the_table_and_nothing_else(tmp_path: Path) -> None:
    train(tmp_path, write_manifest(tmp_path, planned(), "python sweeps/s.py"))
    before = tables(tmp_path)
    renamed = write_manifest(tmp_path, planned({OTHER_NAMES[arm]: k for arm, k in SIZES.items()}), "python sweeps/s.py")
    assert renamed["arms"] == ["S=16", "S=32", "S=64", "random init"]
    assert tables(tmp_path) == {form: with_other_names(text) for form, text in before.items()}
    rows = {row.arm: row for row in ablation_table(*load_sweep(tmp_path, "s")).rows}
    best = rows["S=64"].comparison
    assert best is not None
    assert best.p_t is not None
    assert best.p_t_holm is not None
    assert best.verdict == "higher"
    assert best.p_t_holm == pytest.approx(2 * best.p_t)  # Holm over two arms
    assert events_of(renamed) == [
        f"arm {old} is now {new}: the same config, and its runs count" for old, new in OTHER_NAMES.items()
    ]
    assert former_names(renamed, "S=64") == ["K=64"]


def doubled(manifest: Manifest) -> Manifest:
    """As programs wrote it that took an arm for its name: the new names first, the old ones kept behind."""
    again = [{**cell, "arm": OTHER_NAMES.get(cell["arm"], cell["arm"])} for cell in manifest["cells"]]
    old = [cell for cell in manifest["cells"] if cell["arm"] != schema.RANDOM_INIT]
    plain: Any = {
        **manifest,
        "arms": [*OTHER_NAMES.values(), *SIZES, schema.RANDOM_INIT],
        "baseline": OTHER_NAMES[manifest["baseline"]],
        "axis_values": {OTHER_NAMES[a]: v for a, v in manifest["axis_values"].items()} | manifest["axis_values"],
        "published": {OTHER_NAMES[a]: v for a, v in manifest["published"].items()},
        "shape": [{"kind": "order", "arms": ["S=64", "S=16"]}],
        "claim": "S=64 above S=16",
        "cells": [*(c for c in again if c["arm"] != schema.RANDOM_INIT), *old, *again[-SEEDS:]],
    }
    made: Manifest = plain
    return made


def test_a_plan_in_which_renamed_arms_stand_twice_is_read_with_each_once(tmp_path: Path) -> None:
    written = write_manifest(tmp_path, planned(), "python sweeps/s.py")
    train(tmp_path, written)
    before = tables(tmp_path)
    (tmp_path / "sweeps/s@digits.json").write_text(json.dumps(doubled(written)))
    assert tables(tmp_path) == {form: with_other_names(text) for form, text in before.items()}
    read = read_manifest(tmp_path, "s@digits")
    assert read is not None
    assert read["arms"] == ["S=16", "S=32", "S=64", "random init"]
    assert [(c["arm"], c["seed"], c["run_id"]) for c in read["cells"]] == [
        (OTHER_NAMES.get(c["arm"], c["arm"]), c["seed"], c["run_id"]) for c in written["cells"]
    ]
    merged = write_manifest(tmp_path, planned({OTHER_NAMES[arm]: k for arm, k in SIZES.items()}), "again")
    assert merged["arms"] == read["arms"]


def test_seeds_of_an_arm_stay_with_its_config_under_another_name(tmp_path: Path) -> None:
    write_manifest(tmp_path, planned({"a": 16, "b": 32}, seeds=2), "first")

    def with_a_third_seed(old: Manifest) -> Manifest:
        more = next(c for c in planned({"a": 16, "b": 32}, seeds=3).cells() if (c.arm, c.seed) == ("b", 2))
        cell = schema.Cell(arm="b", seed=2, run_id=more.run_id, config=to_plain(more.config))
        return Manifest(**{**old, "cells": [*old["cells"], cell]})

    change(tmp_path, "s@digits", with_a_third_seed)
    renamed = write_manifest(tmp_path, planned({"a": 16, "c": 32}, seeds=2), "second")
    assert {arm: [c["seed"] for c in renamed["cells"] if c["arm"] == arm] for arm in renamed["arms"]} == {
        "a": [0, 1],
        "c": [0, 1, 2],
        "random init": [0, 1],
    }


def test_two_arms_that_swap_their_names_swap_their_runs(tmp_path: Path) -> None:
    first = write_manifest(tmp_path, planned({"a": 16, "b": 32, "c": 64}), "first")
    swapped = write_manifest(tmp_path, planned({"a": 16, "b": 64, "c": 32}), "second")

    def runs(manifest: Manifest, arm: str) -> list[str]:
        return [cell["run_id"] for cell in manifest["cells"] if cell["arm"] == arm]

    assert (runs(swapped, "b"), runs(swapped, "c")) == (runs(first, "c"), runs(first, "b"))
    assert swapped["arms"] == ["a", "b", "c", "random init"]
    assert swapped.get("past", []) == []


def test_an_arm_is_dropped_and_brought_back_whole(tmp_path: Path) -> None:
    written = write_manifest(tmp_path, planned(), "python sweeps/s.py")
    train(tmp_path, written)
    before = tables(tmp_path)
    dropped = arms.drop(tmp_path, "s@digits", "K=64")
    assert dropped["arms"] == ["K=16", "K=32", "random init"]
    table = ablation_table(*load_sweep(tmp_path, "s"))
    assert [row.arm for row in table.rows] == ["K=16", "K=32", "random init"]
    only = table.rows[1].comparison
    assert only is not None
    assert only.p_t is not None
    assert only.p_t_holm == min(
        1.0, 2 * only.p_t
    )  # as if K=64 were still there: it may have been dropped for its results
    assert [(one.arm, one.seed, one.why) for one in orphans(tmp_path)] == [
        ("K=64", cell["seed"], "dropped by hand")
        for cell in sorted(written["cells"], key=lambda cell: cell["run_id"])
        if cell["arm"] == "K=64"
    ]
    back = arms.restore(tmp_path, "s@digits", "K=64")
    for key in ("arms", "seeds", "cells", "axis_values", "published", "baseline"):
        assert back[key] == written[key]  # type: ignore[literal-required]
    assert tables(tmp_path) == before
    assert orphans(tmp_path) == []


def test_an_entry_of_the_past_that_says_less_still_names_its_runs(tmp_path: Path) -> None:
    """Every field of it may be missing, as in a plan that another program wrote."""
    written = write_manifest(tmp_path, planned(), "python sweeps/s.py")
    train(tmp_path, written)
    dropped = arms.drop(tmp_path, "s@digits", "K=64")
    (one,) = dropped["past"]
    short = Manifest(**{**dropped, "past": [{}, {"runs": one["runs"]}]})
    assert [(o.seed, o.why) for o in orphans(tmp_path, [short])] == [
        (o.seed, "left out of the plan") for o in orphans(tmp_path, [dropped])
    ]
    assert len(orphans(tmp_path, [short])) == SEEDS


def test_a_rename_by_hand_is_that_of_the_file(tmp_path: Path) -> None:
    train(tmp_path, write_manifest(tmp_path, planned(), "python sweeps/s.py"))
    before = tables(tmp_path)
    for old, new in OTHER_NAMES.items():
        arms.rename(tmp_path, "s@digits", old, new)
    assert tables(tmp_path) == {form: with_other_names(text) for form, text in before.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--drop", "K=16"], "--drop K=16: all arms are compared with it; name another baseline in the sweep's file"),
        (["--drop", "random-init"], "--drop random init: every table has the untrained encoder"),
        (["--drop", "K=8"], "K=8: no such arm in s@digits; its arms are K=16, K=32, K=64, random init"),
        (
            ["--rename", "K=16=K=32"],
            "--rename K=16=K=32: K=32 is another arm; the arms are K=16, K=32, K=64, random init",
        ),
        (["--rename", "K=16=a b"], "--rename K=16=a b: a name has letters, digits and . = + - _ only"),
        (
            ["--rename", "K=8=x"],
            "--rename K=8=x: write ARM=NAME with an arm of s@digits; they are K=16, K=32, K=64, random init",
        ),
        (["--restore", "K=8"], "--restore K=8: no such arm in the past of s@digits; there are none"),
    ],
)
def test_what_cannot_be_done_to_an_arm_is_refused_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path))
    written = write_manifest(tmp_path, planned(), "python sweeps/s.py")
    assert experiments(["arms", "s", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert read_manifest(tmp_path, "s@digits") == written


def test_runs_of_another_config_are_named_with_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status`, `find`, `arms` and the dry run."""
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "400")
    first = write_manifest(tmp_path, planned({"a": 16, "b": 32}, seeds=2), "python sweeps/s.py")
    train(tmp_path, first)
    old = sorted(cell["run_id"] for cell in first["cells"] if cell["arm"] == "b")
    why = "its config changed: negatives.size 32 -> 64"
    line = f"  s@digits  b seed {{}}  {why} ({', '.join(old)})"

    assert command.run(sweep({"a": 16, "b": 64}), ["--dry-run", "--seeds", "2"]) == 0
    ahead = capsys.readouterr().out.splitlines()
    assert f"arm b left out: {why}" in ahead
    assert "2 runs in no table (2 done):" in ahead
    assert read_manifest(tmp_path, "s@digits") == first

    changed = write_manifest(tmp_path, planned({"a": 16, "b": 64}, seeds=2), "python sweeps/s.py")
    assert events_of(changed) == [f"arm b left out: {why}"]
    assert [one.run_id for one in orphans(tmp_path)] == old
    seeds = {cell["run_id"]: cell["seed"] for cell in first["cells"]}
    said = line.format(", ".join(str(seeds[run]) for run in old))
    for arguments in (["status", "s"], ["find", "s"], ["arms", "s"], ["arms"]):
        assert experiments(arguments) == 0
        printed = capsys.readouterr().out.splitlines()
        assert said in printed, arguments
        assert said in ahead
    assert experiments(["status"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 runs in no table; why: python -m experiments arms"
    assert experiments(["find", old[0]]) == 0
    assert why in capsys.readouterr().out

    back = write_manifest(tmp_path, planned({"a": 16, "b": 64, "c": 32}, seeds=2), "python sweeps/s.py")
    assert [cell["run_id"] for cell in back["cells"] if cell["arm"] == "c"] == [
        cell["run_id"] for cell in first["cells"] if cell["arm"] == "b"
    ]
    assert (orphans(tmp_path), back.get("past", [])) == ([], [])


def test_arms_of_another_baseline_keep_their_names_and_the_reason(tmp_path: Path) -> None:
    first = write_manifest(tmp_path, planned({"a": 16, "b": 32}, seeds=1), "python sweeps/s.py")
    train(tmp_path, first)
    faster = replace(digits(), optim=replace(digits().optim, lr=0.5))
    changed = write_manifest(tmp_path, planned({"a": 16, "c": 64}, base=faster, seeds=1), "python sweeps/s.py")
    assert {one["arm"]: one["why"] for one in changed["past"]} == {
        "a": "its config changed: optim.lr 0.24 -> 0.5",
        "b": "the config of the baseline changed: optim.lr 0.24 -> 0.5",
    }
    assert {one.arm for one in orphans(tmp_path)} == {"a", "b"}
    with pytest.raises(
        ValueError, match=r"^--restore b: the config of the baseline changed: optim\.lr 0\.24 -> 0\.5; "
    ):
        arms.restore(tmp_path, "s@digits", "b")


def test_a_run_that_an_older_program_lost_from_its_plan_is_named_by_the_arm_it_is_most_like(tmp_path: Path) -> None:
    """Such plans have no past."""
    first = write_manifest(tmp_path, planned({"a": 16, "b": 32}, seeds=1), "python sweeps/s.py")
    train(tmp_path, first)
    file = tmp_path / "sweeps/s@digits.json"
    file.unlink()
    write_manifest(tmp_path, planned({"a": 16, "c": 64}, seeds=1), "python sweeps/s.py")
    (one,) = orphans(tmp_path)
    assert (one.label, one.arm, one.seed, one.why) == ("s@digits", None, 0, "no arm has negatives.size = 32 now")
    file.unlink()
    faster = replace(digits(), optim=replace(digits().optim, lr=0.5))
    write_manifest(tmp_path, planned({"a": 16, "b": 32}, base=faster, seeds=1), "python sweeps/s.py")
    trained = [one for one in orphans(tmp_path) if one.arm != schema.RANDOM_INIT]
    why = "planned with another config now: optim.lr 0.24 -> 0.5"
    assert {one.arm: one.why for one in trained} == {"a": why, "b": why}
    file.unlink()
    assert {one.why for one in orphans(tmp_path)} == {"no plan of s is in this store any more"}


def test_a_run_of_pretrain_is_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path))
    train(tmp_path, write_manifest(tmp_path, planned({"a": 16, "b": 32}, seeds=1), "python sweeps/s.py"))
    (tmp_path / "sweeps/s@digits.json").unlink()
    for path in tmp_path.glob("*/environment.json"):
        path.write_text(json.dumps({"command": "python -m experiments pretrain --baseline digits"}))
    assert {one.why for one in orphans(tmp_path)} == {"trained by itself with pretrain; no sweep plans it"}
    assert experiments(["status"]) == 0
    assert "in no table" not in capsys.readouterr().out


def test_two_files_with_one_name_do_not_share_a_plan(tmp_path: Path) -> None:
    root, one, other = tmp_path / "runs", tmp_path / "one.py", tmp_path / "other.py"
    one.write_text('Sweep(name="s")\n')
    other.write_text('Sweep(name="s")\n')
    first = planned(seeds=1)
    check_file(root, first, one)
    write_manifest(root, first, "python one.py", str(one))
    check_file(root, first, one)
    plan_of_it = f"sweep s: {one} has this name too, and its plan s@digits is in this store"
    message = f"{plan_of_it}; give one of the two files another name="
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_file(root, first, other)
    one.write_text('Sweep(name="t")\n')  # it has another name now
    check_file(root, first, other)
    one.write_text('Sweep(name="s")\n')
    moved = one.rename(tmp_path / "moved.py")
    check_file(root, first, moved)


def test_another_checkout_of_the_same_sweep_is_the_same_sweep(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    files = [tmp_path / name / "s.py" for name in ("mine", "yours")]
    for file in files:
        file.parent.mkdir()
        file.write_text('Sweep(name="s")\n')
    write_manifest(root, planned(seeds=1), "python sweeps/s.py", str(files[0]))
    check_file(root, planned(seeds=1), files[1])
    with pytest.raises(ValueError, match="has this name too"):
        check_file(root, planned(seeds=1, question="Something else?"), files[1])


def test_a_store_of_before_knows_the_file_by_its_command(tmp_path: Path) -> None:
    root, one, other = tmp_path / "runs", tmp_path / "one.py", tmp_path / "other.py"
    for file in (one, other):
        file.write_text('Sweep(name="s")\n')
    write_manifest(root, planned(seeds=1), "python one.py --seeds 1")
    with pytest.raises(ValueError, match="has this name too"):
        check_file(root, planned(seeds=1), other)
    check_file(root, planned(seeds=1), one)
