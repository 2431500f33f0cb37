"""What counts as a record, field by field, and every reader's answer to a file that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.store import schema
from experiments.store.files import now
from experiments.store.manifests import read_manifest
from experiments.store.records import checked, problem
from experiments.store.run import RunDirectory
from experiments.store.schema import Attempt, Manifest, Results, SearchRecord, Status
from experiments.store.search_record import read_record
from tests.support.analysis_runs import manifest

RIGHT: list[tuple[type, Any]] = [
    (Status, {}),
    (Status, {"state": "done", "step": 3, "epoch": 1, "images_per_s": None, "diverged": False, "new field": [1]}),
    (Status, {"step": None}),  # as if it were left out
    (Attempt, {"event": "end", "attempt": 1, "seconds": 2, "reason": None}),
    (Results, {"test": {"linear_top1": 97, "knn20_top1": float("nan")}, "seconds": 1.5}),
    (Manifest, manifest({"K=1": [0]})),
    (Manifest, {**manifest({"K=1": [0]}), "factors": {"K=1": {"negatives": "queue"}}, "shape": [{"kind": "rises"}]}),
]
WRONG: list[tuple[type, Any, str]] = [
    (Status, [], "not a JSON object"),
    (Status, None, "not a JSON object"),
    (Status, {"step": "3"}, "step is '3', must be int"),
    (Status, {"step": True}, "step is True, must be int"),
    (Status, {"step": 1.5}, "step is 1.5, must be int"),
    (Status, {"diverged": 1}, "diverged is 1, must be bool"),
    (Status, {"knn": "a" * 99}, f"knn is '{'a' * 56}..., must be float | None"),
    (Results, {"test": [1.0]}, "test is [1.0], must be dict[str, float]"),
    (Results, {"test": {"linear_top1": "97"}}, "test is {'linear_top1': '97'}, must be dict[str, float]"),
    (Manifest, {}, "without arms, axis, "),
    (Manifest, {**manifest({"K=1": [0]}), "seeds": ["0"]}, "seeds is ['0'], must be list[int]"),
    (Manifest, {**manifest({"K=1": [0]}), "cells": [{"arm": "K=1"}]}, "cells is [{'arm': 'K=1'}], must be list["),
]


@pytest.mark.parametrize(("kind", "value"), RIGHT)
def test_a_record(kind: type, value: Any) -> None:
    assert problem(kind, value) is None
    assert checked(kind, value, "here") is value


@pytest.mark.parametrize(("kind", "value", "wrong"), WRONG)
def test_what_is_wrong_is_named_with_its_value_and_what_it_must_be(kind: type, value: Any, wrong: str) -> None:
    found = problem(kind, value)
    assert found is not None
    assert found.startswith(wrong)
    with pytest.raises(ValueError, match=r"^here\.json: damaged, ") as error:
        checked(kind, value, "here.json")
    assert str(error.value) == f"here.json: damaged, {found}"


@pytest.mark.parametrize("text", ["[]", '"text"', "7", '{"step": "3", "test": 1, "event": 2, "label": 3}'])
def test_each_reader_names_the_file(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory(tmp_path)
    for name, read, lenient in (
        (schema.STATUS, run.checked_status, run.status),
        (schema.RESULTS, run.checked_results, run.results),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name}: damaged, "):
            read()
        assert lenient() is None
        assert f"{name}: damaged, " in capsys.readouterr().err
    start = {"event": "start", "attempt": 1, "time": now()}
    (tmp_path / schema.ATTEMPTS).write_text(f"{json.dumps(start)}\n{text}\n")
    assert run.attempts() == [start]
    assert f"{schema.ATTEMPTS}, line 2: damaged, " in capsys.readouterr().err
    for folder in (schema.SWEEPS_FOLDER, schema.SEARCHES_FOLDER):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json: damaged, "):
        read_manifest(tmp_path, "x")
    with pytest.raises(ValueError, match=r"x\.json: damaged, "):
        read_record(tmp_path / schema.SEARCHES_FOLDER / "x.json")


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert (run.status(), run.results(), run.attempts()) == (None, None, [])
    assert read_manifest(tmp_path, "x") is None
    assert problem(SearchRecord, {}) is not None


@pytest.mark.parametrize("newer", [{"store_version": 99}, {"store_version": 99, "label": 3}])
def test_a_newer_program_is_named_before_its_fields(tmp_path: Path, newer: dict[str, Any]) -> None:
    (tmp_path / schema.SWEEPS_FOLDER).mkdir()
    (tmp_path / schema.SWEEPS_FOLDER / "x.json").write_text(json.dumps(newer))
    with pytest.raises(ValueError, match="store version 99 is newer than this program's 1; update it"):
        read_manifest(tmp_path, "x")
