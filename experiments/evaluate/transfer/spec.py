"""What is asked of every encoder of one command, and where its record is. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.plan.overrides import no_such_field, parse
from moco.config.plain import type_hints
from moco.transfer.recipes import Recipe

FOLDER = "transfer"  # in a run's directory, one JSON file a task; in the runs' folder, tables of sweeps

# the readouts that a table shows, the first decides; all are in the records
HEADLINES: dict[str, tuple[str, ...]] = {
    "detection": ("box_ap", "box_ap50", "box_ap75"),
    "instance": ("mask_ap", "mask_ap50", "mask_ap75", "box_ap"),
    "segmentation": ("miou", "pixel_accuracy"),
}


@dataclass(frozen=True)
class Job:
    """`on`: the split that is reported, "test", or "validation" to choose a recipe by."""

    recipe: Recipe
    on: str = "test"
    root: str | None = None  # of VOC or COCO
    device: str = "auto"
    workers: int = 0  # processes that read images

    @property
    def name(self) -> str:
        """`detection-scenes-1a2b3c4d`: the hash is of all that changes the result, but for the encoder and the seed."""
        plain = json.dumps([asdict(self.recipe), self.on], sort_keys=True)
        return f"{self.recipe.task}-{self.recipe.data}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"

    @property
    def words(self) -> str:
        return f"{self.recipe.task} on {self.recipe.data}, {self.on} split"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def of_json(text: str) -> Job:
        plain: dict[str, Any] = json.loads(text)
        recipe: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in plain.pop("recipe").items()
        }
        return Job(Recipe(**recipe), **plain)


def changed(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """With each "field=value". Raises ValueError with one line: the field and value, what is allowed, what was meant."""
    hints, values = type_hints(Recipe), {}
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not (equals and name):
            raise ValueError(f"--set {assignment}: write it as FIELD=VALUE, e.g. --set iterations=400")
        if name not in hints or name in ("task", "data"):
            raise ValueError(_unknown(name, [known for known in hints if known not in ("task", "data")]))
        values[name] = parse(name, hints[name], text)
    return replace(recipe, **values)


def _unknown(name: str, known: Sequence[str]) -> str:
    if name in ("task", "data"):
        return f"--set {name}: has a flag of its own, --{name}"
    return no_such_field(name, known)


def record_file(run: Path, job: Job) -> Path:
    return run / FOLDER / f"{job.name}.json"


def log_file(run: Path, job: Job) -> Path:
    """What was said on the way to the record, when a sweep's worker made it."""
    return record_file(run, job).with_suffix(".log")
