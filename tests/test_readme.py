"""The README shows what a command wrote; the sweeps shown in the texts are ones that the engine takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.plan.baselines import digits
from experiments.plan.registry import baselines
from experiments.plan.sweep import Sweep, plan

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


def test_it_names_every_baseline_and_every_sweep() -> None:
    sweeps = {p.stem for p in (ROOT / "sweeps").glob("*.py")} - {"__init__"}
    assert all(f"`{name}`" in README for name in {*baselines(), *sweeps})
