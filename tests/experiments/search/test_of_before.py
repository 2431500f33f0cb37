"""A search over a folder from before its contents were compared is named, with the settings that go on with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.commands.search import run
from experiments.plan.baselines import folder
from experiments.plan.overrides import apply
from experiments.plan.sweep import label_of
from experiments.search.definition import plan
from experiments.store.files import replace_json
from experiments.store.search_record import record_path
from moco.data.catalog import known_by_names, resolve
from tests.support.data_files import write_folder
from tests.support.search_toy import TOY

SEARCH = replace(TOY, space={"optim.lr": TOY.space["optim.lr"]})  # its queues are longer than the folder
SIZES = ["negatives.size=32", "train.batch_size=16", "train.device=cpu"]


def test_it_is_named_and_its_settings_lead_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the label that the fixed defaults give under the fingerprint of names and sizes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "2000")
    given = [f"data.root={write_folder(tmp_path / 'set', per_class=40)}", *SIZES]
    fixed = apply(folder(), given)
    old = replace(fixed, data=known_by_names(resolve(fixed.data)))
    label = label_of(SEARCH.name, "folder", old, folder())
    command = ["--baseline", "folder", "--dry-run", "--set", *given]
    assert run(SEARCH, command) == 0
    assert label not in capsys.readouterr().out
    path = record_path(tmp_path / "runs", label)
    path.parent.mkdir(parents=True)
    replace_json(path, plan(SEARCH, "digits", []).record("", seed=0, storage="journal"))
    assert run(SEARCH, command) == 0
    said = capsys.readouterr().out
    assert f"warning: the search {label} is of before" in said
    to_set = said.partition(f"warning: the search {label}")[2].partition("--set ")[2].partition(" goes on with it")[0]
    assert plan(SEARCH, "folder", [*given, *to_set.split()]).label == label
