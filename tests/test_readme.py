"""The README shows what a command wrote and lists what is there; the sweeps in the texts are ones that the engine takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.plan.baselines import digits
from experiments.plan.sweep import Sweep, plan
from tests.support import readme_lists

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_its_table_is_the_one_that_make_demo_wrote() -> None:
    shown = re.search(r"<!-- demo table -->\n(.*)\n<!-- /demo table -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == (ROOT / "analysis/example/queue_size.md").read_text().strip()


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
