"""The README shows what a command wrote and lists what is there; the sweeps in the texts are ones that the engine takes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.cli import VERBS
from analysis.parser import parser as analysis_parser
from experiments import console
from experiments.__main__ import parser as experiments_parser
from experiments.commands import search, sweep
from experiments.plan.baselines import digits
from experiments.plan.overrides import base_configs
from experiments.plan.sweep import Sweep, plan
from sweeps import questions
from tests.support import readme_lists

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_its_table_is_out_of_the_one_that_make_demo_wrote() -> None:
    shown = re.search(r"<!-- demo table -->\n(.*)\n<!-- /demo table -->", README, re.DOTALL)
    assert shown is not None
    lines = [line for line in shown[1].splitlines() if line]
    written = (ROOT / "analysis/example/momentum.md").read_text().splitlines()
    assert lines == [line for line in written if line in lines]
    assert [line for line in written if line.startswith("|")] == [line for line in lines if line.startswith("|")]


def code_lines() -> list[str]:
    blocks = re.findall(r"```(?:python)?\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_no_line_of_code_is_wider_than_a_repository_page_shows() -> None:
    assert [line for line in code_lines() if len(line) > 100] == []


COMMANDS = [line for line in code_lines() if line.startswith(("moco ", "python "))]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one_that_the_parsers_take(line: str) -> None:
    """Flags, baselines, fields and arms that do not exist would end the test; RUN, FILE and DIR stand for the reader's own."""
    program, verb, *rest = shlex.split(line, comments=True)
    assert program == "moco"
    if verb == "sweep":
        name, *flags = rest
        question = questions()[name]
        if isinstance(question, Sweep):
            options = sweep.launch_options(sweep.parser(question).parse_args(flags), line)
            base_name = options.baseline or question.base
            base, preset = base_configs(base_name, options.settings)
            plan(question, base, base_name=base_name, preset=preset).choose(
                options.only
            ) if base_name != "folder" else None
        else:
            search.parser(question).parse_args(flags)
    elif verb in VERBS:
        analysis_parser().parse_args([verb, *rest])
    elif verb in ("list", "fields"):
        assert console.main([verb, *rest]) == 0
    else:
        experiments_parser().parse_args([verb, *rest])


@pytest.mark.parametrize(
    ("file", "arms"),
    [
        ("README.md", ["dim=16", "dim=32", "dim=64", "dim=128"]),
        ("CONTRIBUTING.md", ["width=32", "width=64", "width=128", "width=256"]),
    ],
)
def test_the_sweep_it_shows_expands(file: str, arms: list[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)
    names: dict[str, object] = {"__name__": "shown"}
    exec(code, names)
    sweep = names["SWEEP"]
    assert isinstance(sweep, Sweep)
    assert list(plan(sweep, digits(), base_name="digits").arms) == [*arms, "random init"]


def test_its_lists_are_what_is_there() -> None:
    """Written, not demanded: by python -m tests.support.readme_lists --write, and by this test under UPDATE_GOLDEN=1."""
    if os.environ.get("UPDATE_GOLDEN"):
        readme_lists.README.write_text(readme_lists.filled(README))
    text = readme_lists.README.read_text()
    assert readme_lists.filled(text) == text, "python -m tests.support.readme_lists --write brings the lists up to date"


def test_a_list_that_is_behind_is_written_and_one_without_its_marks_is_an_error() -> None:
    behind = re.sub(r"\| `queue_size` .*\n", "", README)
    assert behind != README
    assert readme_lists.filled(behind) == README
    with pytest.raises(ValueError, match="the marks <!-- readouts --> and <!-- /readouts --> are not there"):
        readme_lists.filled(README.replace("<!-- readouts -->\n", ""))


def test_every_file_of_sweeps_is_listed_by_its_question() -> None:
    """Oracle: the files, and the questions as they are written in them."""
    files = {path.stem: path.read_text() for path in (ROOT / "sweeps").glob("[!_]*.py")}
    listing = subprocess.run(
        [sys.executable, "-m", "sweeps"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    listed = dict(line.split(maxsplit=1) for line in listing.splitlines())
    assert list(listed) == sorted(files)
    assert all(f'question="{question}"' in files[name] for name, question in listed.items())
