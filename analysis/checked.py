"""What is to be known of the readouts of a run before they are averaged.

    agreeing      those that agree with the journal
    possible      those that can be right by themselves
    shortfalls    where a readout had less to work with than its name says

Do the readouts in results.json agree with the run's journal? A number that cannot be right is not averaged.

The worker copies the last value of each readout from the journal into results.json, and `evaluate` writes both. So they differ
only where one of the files was changed or damaged since; which of the two is right cannot be known, so neither is used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from experiments.store import metrics, schema

NEIGHBOURS = re.compile(r"knn(\d+)_neighbours")
RAISED = re.compile(r"(few_label_\w+)_raised")
SAME = 1e-9  # relative: the same number, written twice


def agreeing(run_dir: Path, readouts: Mapping[str, float], problems: list[str]) -> dict[str, float]:
    """The readouts of the test split that can be used; what is wrong with the others is added to `problems`.

    A journal that has no readouts, as those of stores without journals, contradicts none.
    """
    journal = _last_readouts(run_dir / schema.JOURNAL)
    sound: dict[str, float] = {}
    for name, value in possible(str(run_dir / schema.RESULTS), readouts, problems).items():
        written = journal.get(name)
        if written is not None and abs(written - value) > SAME * max(abs(written), abs(value)):
            problems.append(f"{run_dir / schema.RESULTS}: {name} is {value:g}, the journal has {written:g}; not used")
        else:
            sound[name] = value
    return sound


def possible(place: str, readouts: Mapping[str, float], problems: list[str]) -> dict[str, float]:
    """The readouts that can be: finite, and between 0 and 100 if they are percentages. `place`: where they stand."""
    sound: dict[str, float] = {}
    for name, value in readouts.items():
        if not math.isfinite(value):
            problems.append(f"{place}: {name} is {value}, not a finite number; not used")
        elif metrics.unit_of(name) == "%" and not 0 <= value <= 100:
            problems.append(f"{place}: {name} is {value:g}, not a percentage; not used")
        else:
            sound[name] = value
    return sound


def _last_readouts(path: Path) -> dict[str, float]:
    """Readout of the test split -> its last value. Only lines that name one are parsed; a damaged line has none."""
    found: dict[str, float] = {}
    try:
        content = path.read_bytes()
    except OSError:
        return found
    for line in content.splitlines():
        if b'"test/' not in line:
            continue
        try:
            values = json.loads(line)["values"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if isinstance(values, dict):
            for key, value in values.items():
                if key.startswith("test/") and isinstance(value, int | float):
                    found[key.removeprefix("test/")] = float(value)
    return found


def shortfalls(facts: Mapping[str, float]) -> list[str]:
    """In words, from the facts that `moco.evaluation.readouts` records: the names after `readout/`."""
    lines: list[str] = []
    for name, value in facts.items():
        if match := NEIGHBOURS.fullmatch(name):
            lines.append(f"kNN-{match[1]}: all {value:g} training images vote, fewer than {match[1]}")
        elif (match := RAISED.fullmatch(name)) and value > 0:
            title = metrics.TITLES.get(f"{match[1]}_top1", match[1])
            lines.append(f"{title}: {value:g} classes have less than one label in that share and give one")
        elif name == "few_label_least":
            lines.append(
                f"{metrics.TITLES[schema.FEW_LABEL]}: the smallest class has {value:g} labels, fewer than were asked for"
            )
        elif name == "test_classes":
            lines.append("the test images are all of one class, which any answer gets right")
    return sorted(lines)
