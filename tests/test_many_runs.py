"""What it costs to look at thousands of runs grows with their number and no faster. Oracle: the processor's clock.

What ten thousand cost is measured on a quiet machine, with `python -m tests.support.many_runs`.
"""

from __future__ import annotations

import polars as pl
import pytest

from tests.support.many_runs import LOOKS, SEEDS, look, make

FEW, MANY = 500, 2000
PROMISED = {"status, first": 2.0, "status, again": 2.0, "table, first": 3.0, "table, again": 3.0, "report": 20.0}


@pytest.fixture(scope="module")
def spent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    """Seconds of the processor for few and for many."""
    found = []
    for count in (FEW, MANY):
        folder = tmp_path_factory.mktemp(f"of{count}")
        make(folder / "runs", count)
        found.append(look(folder / "runs", folder))
        assert f"{count} done" in (folder / "status-first.txt").read_text()
        assert pl.read_csv(folder / "table.csv")["n_done"].sum() == count
        assert pl.read_csv(folder / "table.csv").height == count // SEEDS
    few, many = found
    return {name: (few[name].processor, many[name].processor) for name in LOOKS}


@pytest.mark.parametrize("what", LOOKS)
def test_ten_thousand_runs_would_cost_what_is_promised(spent: dict[str, tuple[float, float]], what: str) -> None:
    """The line through both, at ten thousand. A square in it would stand out: 20 times the steps are 400 times the work."""
    few, many = spent[what]
    slope = (many - few) / (MANY - FEW)
    there = few + slope * (10_000 - FEW)
    print(f"{what}: {few:.2f} s for {FEW}, {many:.2f} s for {MANY}, {there:.1f} s for 10000")
    assert there < 2 * PROMISED[what]  # neighbours on the machine cost caches, and so some of the processor's time
