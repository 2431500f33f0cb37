"""Inputs that nobody thought of: `--set`, profiles, journals, plans and names. Oracle: one clear line or an answer.

There is never a traceback. The inputs are drawn anew from a fixed seed: the same two thousand each time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from experiments.__main__ import main
from experiments.plan.overrides import base_configs
from experiments.store import schema
from experiments.store.journal import read_journal
from experiments.store.manifests import all_manifests, manifest_path
from experiments.store.run import RUNS_VARIABLE, RunDirectory
from slurm.profiles import load_profile

EACH = 400
FUZZ = settings(
    max_examples=EACH,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
TEXT = st.text(max_size=30)
FIELDS = st.sampled_from(
    [
        "train.epochs",
        "optim.lr",
        "optim",
        "negatives",
        "negatives.size",
        "data.root",
        "train.device",
        "encoder",
        "head.hidden",
        "_",
    ]
)
VALUES = st.one_of(
    TEXT,
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", "meta", "null", "[]", "()", "1e999", "-0", "0x10", "true", "'", '"', "{", "1_000", "9" * 5000]
    ),
)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def one_line_or_fine(work: Callable[[], object]) -> None:
    """A ValueError of one line is a clear answer; any other error is the failure of the test."""
    said = "fine"
    try:
        work()
    except ValueError as error:
        said = str(error).strip()
    assert len(said.splitlines()) == 1, said


LINES = st.builds("{} = {}\n".format, TEXT, VALUES).map(lambda text: text.encode(errors="replace"))


@FUZZ
@given(st.lists(st.one_of(TEXT, st.builds("{}={}".format, st.one_of(FIELDS, TEXT), VALUES)), max_size=3))
def test_set(assignments: list[str]) -> None:
    one_line_or_fine(lambda: base_configs("digits", assignments))


@FUZZ
@given(st.one_of(st.binary(max_size=60), LINES))
def test_profiles(root: Path, content: bytes) -> None:
    file = root / "site.toml"
    file.write_bytes(content)
    one_line_or_fine(lambda: load_profile(str(file)))


@FUZZ
@given(st.lists(st.one_of(st.binary(max_size=60), PLAIN.map(lambda value: json.dumps(value).encode())), max_size=5))
def test_journals(root: Path, lines: list[bytes]) -> None:
    """Nothing is counted that is neither a record nor named as damaged."""
    run = RunDirectory(root / "run")
    run.path.mkdir(exist_ok=True)
    for name in (schema.JOURNAL, schema.ATTEMPTS):
        (run.path / name).write_bytes(b"".join(line + b"\n" for line in lines))
    found = read_journal(run.path / schema.JOURNAL)
    assert all(isinstance(record["values"], dict) for record in found.records)
    with contextlib.redirect_stderr(io.StringIO()):
        assert run.records() == found.records
        run.attempts()


@FUZZ
@given(st.one_of(st.binary(max_size=60), PLAIN.map(lambda value: json.dumps(value).encode())))
def test_plans_and_status(root: Path, content: bytes) -> None:
    path, run = manifest_path(root, "x"), RunDirectory(root / "run")
    path.parent.mkdir(exist_ok=True)
    run.path.mkdir(exist_ok=True)
    for file in (path, run.path / schema.STATUS, run.path / schema.RESULTS, run.path / schema.CONFIG):
        file.write_bytes(content)
    with contextlib.redirect_stderr(io.StringIO()):
        one_line_or_fine(lambda: all_manifests(root))
        for read in (run.status, run.results, run.config):
            one_line_or_fine(read)


@FUZZ
@given(st.sampled_from(["status", "logs", "find", "cancel", "retry", "export", "throttle"]), TEXT)
def test_names(root: Path, verb: str, name: str) -> None:
    """No run has such a name: exit 0, 1 or 2, and nothing is written."""
    empty = root / "empty"
    os.environ[RUNS_VARIABLE] = str(empty)
    out, err = io.StringIO(), io.StringIO()
    more = {"throttle": ["2"], "export": ["--to", "safetensors"]}.get(verb, [])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: object = main([verb, name, *more])
        except SystemExit as end:
            code = end.code
    assert code in (0, 1, 2), (verb, name, code)
    assert "Traceback" not in err.getvalue()
    assert not empty.exists() or not any(empty.iterdir())


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNS_VARIABLE, os.environ.get(RUNS_VARIABLE, "runs"))
