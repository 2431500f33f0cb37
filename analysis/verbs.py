"""Verbs that answer in lines or in JSON: how many seeds more, which arms are decided, whether a file still holds."""

from __future__ import annotations

import argparse
import json
from typing import Any

from analysis import words
from analysis.ablation import ablation_table, undecided
from analysis.frame import load_sweep
from analysis.table import Row, Table
from experiments.store.run import runs_root

Arguments = argparse.Namespace


def _loaded(arguments: Arguments) -> Table:
    return ablation_table(*load_sweep(runs_root(), arguments.sweep), arguments.readout)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def power(arguments: Arguments) -> int:
    """Seeds and hours for each arm that is not told apart from the baseline yet."""
    from analysis.power import advise

    table = _loaded(arguments)
    advice = advise(table, arguments.power)
    if arguments.json:
        data = {"label": table.label, "metric": table.metric, "power": arguments.power}
        _print_json(data | {"advice": [a.as_data() for a in advice]})
        return 0
    for line in map(words.advice_line, advice):
        print(line)
    few = [row.arm for row in table.rows if row.role == "arm" and (row.comparison is None or row.comparison.n < 2)]
    if few:
        print(f"Too few paired seeds to reckon with: {', '.join(few)}; two are the least")
    if not advice and not few:
        print("Every arm is told apart from the baseline.")
    return 0


def _decided(row: Row) -> dict[str, Any]:
    c = row.comparison
    numbers = {"n": 0} if c is None else {"n": c.n, "difference": c.difference, "p": c.p_t_holm}
    return {"decided": c is not None and c.separable, "verdict": words.verdict(c), **numbers}


def decide(arguments: Arguments) -> int:
    """What `--until-significant` asks after each round."""
    table = _loaded(arguments)
    arms = {row.arm: _decided(row) for row in table.rows if row.role == "arm"}
    claim = None if table.claim is None else {"says": table.claim.says, "verdict": table.claim.verdict}
    if arguments.json:
        facts = {"label": table.label, "metric": table.metric, "baseline": table.baseline}
        _print_json({**facts, "undecided": undecided(table), "arms": arms, "claim": claim})
        return 0
    for arm, facts in arms.items():
        print(f"{arm}: {facts['verdict']}")
    if claim:
        print(f'claim "{claim["says"]}": {claim["verdict"]}')
    return 0


def verify(arguments: Arguments) -> int:
    """1 if something has changed since the file was made."""
    from analysis.verify import verify as changes

    found = changes(arguments.file, runs_root())
    for line in found:
        print(line)
    if not found:
        print(f"{arguments.file}: nothing has changed since it was made")
    return 1 if found else 0
