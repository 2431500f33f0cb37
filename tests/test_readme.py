"""The README shows what a command wrote, and its sweep is one that the engine takes."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.baselines import BASELINES, digits
from experiments.sweep import Sweep, plan

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_its_table_is_the_one_that_make_demo_wrote() -> None:
    shown = re.search(r"<!-- demo table -->\n(.*)\n<!-- /demo table -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == (ROOT / "analysis/example/queue_size.md").read_text().strip()


def test_its_own_sweep_expands() -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "SWEEP" in block)
    names: dict[str, object] = {"__name__": "readme"}
    exec(code, names)
    sweep = names["SWEEP"]
    assert isinstance(sweep, Sweep)
    assert list(plan(sweep, digits(), base_name="digits").arms) == [
        "dim=16",
        "dim=32",
        "dim=64",
        "dim=128",
        "random init",
    ]


def test_it_names_every_baseline_and_every_sweep() -> None:
    sweeps = {p.stem for p in (ROOT / "sweeps").glob("*.py")} - {"__init__"}
    assert all(f"`{name}`" in README for name in {*BASELINES, *sweeps})
