"""What commands print of the analysis, held against `python -m analysis` in a process of its own, byte by byte."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.commands.answers import show_search, show_table, undecided
from experiments.store import schema
from tests.support.analysis_runs import unfinished_store
from tests.support.stand_in_runs import ROOT, environment


def analysis(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analysis", *arguments]
    env = environment(MOCO_RUNS=str(root))
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("readout", [None, schema.KNN20, "no_such_readout"])
def test_the_table_is_that_of_the_analysis(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], readout: str | None
) -> None:
    label = unfinished_store(tmp_path)["label"]
    (tmp_path / "K1024-0" / schema.ATTEMPTS).write_text("damaged\n")
    flags = ["--readout", readout] if readout else []
    expected = analysis(tmp_path, "table", label, *flags)
    show_table(tmp_path, label, readout)
    shown = capsys.readouterr()
    again = " ".join(["table again: python -m analysis table", label, *flags])
    assert shown.out == f"\n{expected.stdout}\n{again}\n"
    assert shown.err == expected.stderr
    assert ("error: " in shown.err) == (readout == "no_such_readout")


@pytest.mark.parametrize("show", [show_table, show_search])
def test_what_is_not_there_is_one_line_and_no_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], show: Callable[[Path, str], None]
) -> None:
    verb = {show_table: ["table"], show_search: ["search", "--table"]}[show]
    expected = analysis(tmp_path, verb[0], "nothing", *verb[1:])
    show(tmp_path, "nothing")
    shown = capsys.readouterr()
    assert (expected.returncode, shown.err) == (2, expected.stderr)
    assert len(shown.err.splitlines()) == 1
    assert shown.out.endswith("table again: python -m analysis " + " ".join([verb[0], "nothing", *verb[1:]]) + "\n")


def test_the_undecided_arms_are_those_of_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = unfinished_store(tmp_path)["label"]
    expected = json.loads(analysis(tmp_path, "decide", label, "--json").stdout)
    assert undecided(tmp_path, label) == (expected["undecided"], expected["lost"]) == (["K=128"], ["K=256"])
    with pytest.raises(ValueError, match=r"^nothing: cannot be judged: error: no sweep 'nothing' under "):
        undecided(tmp_path, "nothing")
    assert capsys.readouterr() == ("", "")
