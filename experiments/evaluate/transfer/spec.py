"""What is asked of every encoder of one command, and where its record is. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.plan.overrides import change_fields
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


def changed(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """With each "field=value". Raises ValueError with one line: the field and value, what is allowed, what was meant."""
    return change_fields(recipe, assignments, example="iterations=400", own_flags=("task", "data"))


def record_file(run: Path, job: Job) -> Path:
    return run / FOLDER / f"{job.name}.json"


def log_file(run: Path, job: Job) -> Path:
    """What was said on the way to the record, when a sweep's worker made it."""
    return record_file(run, job).with_suffix(".log")
