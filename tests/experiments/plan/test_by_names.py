"""Runs of a folder from before its contents were compared: they count while no file has changed, else they are named.

Oracle: the run ids of the same sweep under the old fingerprint, written out from the directories that the test made.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from experiments.plan.by_names import with_runs_of_before
from experiments.plan.configs import create
from experiments.plan.overrides import apply
from experiments.plan.registry import baseline_config
from experiments.plan.sweep import Plan, plan
from experiments.store import schema
from experiments.store.run import RunDirectory
from moco.config import Config
from moco.data.catalog import known_by_names, resolve
from sweeps.temperature import SWEEP
from tests.support.data_files import picture, write_folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = write_folder(tmp_path / "set", per_class=40)
    return apply(baseline_config("folder"), [f"data.root={root}", "negatives.size=32", "train.batch_size=16"])


def made(base: Config, seeds: int = 2) -> Plan:
    return plan(SWEEP, base, base_name="folder", preset=baseline_config("folder"), seeds=seeds)


def of_before(base: Config) -> Config:
    return replace(base, data=known_by_names(resolve(base.data)))


def begin(root: Path, planned: Plan, when: float) -> set[str]:
    """Directories of all its runs, whose first attempts began at `when`."""
    for cell in planned.cells():
        run = RunDirectory(root / cell.run_id)
        create(run, cell.config)
        moment = datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
        run.append_attempt(schema.Attempt(event="start", attempt=1, time=moment))
    return {cell.run_id for cell in planned.cells()}


def ids(planned: Plan) -> set[str]:
    return {cell.run_id for cell in planned.cells()}


def test_without_such_runs_the_contents_are_compared_and_nothing_is_said(base: Config, tmp_path: Path) -> None:
    planned = with_runs_of_before(made, base, tmp_path / "runs")
    assert ids(planned) == ids(made(base))
    assert planned.warnings == made(base).warnings
    assert len(planned.arms[planned.baseline].data.fingerprint) == 32


def test_runs_of_before_count_while_no_file_has_changed(base: Config, tmp_path: Path) -> None:
    """Two seeds were run; the third, asked for now, joins them under the old identity and label."""
    root = tmp_path / "runs"
    known = begin(root, made(of_before(base)), time.time() + 1)
    planned = with_runs_of_before(partial(made, seeds=3), base, root)
    assert known < ids(planned) == ids(made(of_before(base), 3))
    assert planned.label == made(of_before(base)).label
    assert planned.warnings[-1] == (
        f"{len(known)} runs of before contents were compared count: no file has changed since they began"
    )


def test_after_a_change_they_are_named_and_do_not_count(base: Config, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    known = begin(root, made(of_before(base)), time.time())
    file = next((Path(str(base.data.root)) / "train" / "cat").glob("*.png"))
    before, size = file.stat().st_ctime_ns, file.stat().st_size
    while time.time_ns() <= before + 10**7:
        time.sleep(0.01)
    file.write_bytes(bytes(size))
    planned = with_runs_of_before(made, base, root)
    assert ids(planned) == ids(made(base))
    assert not ids(planned) & known
    old = of_before(base).data.fingerprint
    assert "do not count: files may have changed since" in planned.warnings[-1]
    assert planned.warnings[-1].endswith(f"--set data.fingerprint={old} counts them, by names and sizes only")
    told = with_runs_of_before(made, apply(base, [f"data.fingerprint={old}"]), root)
    assert ids(told) == known
    assert told.warnings[-1] == f"{old}: names and sizes of the images were compared, their contents were not"


def test_runs_of_today_go_before_those_of_before(base: Config, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    begin(root, made(of_before(base)), time.time() + 1)
    today = begin(root, made(base), time.time() + 2)
    planned = with_runs_of_before(made, base, root)
    assert ids(planned) == today
    assert "there are newer ones that compared them" in planned.warnings[-1]


def test_a_fingerprint_that_is_not_the_folders_is_refused(base: Config, tmp_path: Path) -> None:
    picture(3).save(Path(str(base.data.root)) / "train" / "cat" / "new.png")
    for wrong in ("0" * 16, "0" * 32):
        with pytest.raises(ValueError, match=f"fingerprint {wrong}, now "):
            with_runs_of_before(made, apply(base, [f"data.fingerprint={wrong}"]), tmp_path / "runs")


def test_an_arm_may_look_at_another_folder(base: Config, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", per_class=41)

    def arms(of: Config) -> dict[str, Config]:
        return {"T=0.07": of, "other": replace(of, data=replace(of.data, root=str(other)))}

    sweep = replace(
        SWEEP,
        arms=arms,
        baseline="T=0.07",
        varies=("data.fingerprint",),
        axis=None,
        shape=(),
        claim="differs",
        factors=None,
    )
    planned = plan(sweep, base, base_name="folder", preset=baseline_config("folder"), seeds=1)
    found = {arm: planned.arms[arm].data.fingerprint for arm in ("T=0.07", "other")}
    assert found == {"T=0.07": resolve(base.data).fingerprint, "other": resolve(planned.arms["other"].data).fingerprint}
    assert len(set(found.values())) == 2
