"""What happened to a run's image files: the record images.json that training leaves, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from experiments.store import schema
from experiments.store.records import read_record
from experiments.store.run import RunDirectory

NAMES_DIGITS = 16  # of a folder's fingerprint from before contents were compared; today's are longer
ONLY_NAMES = "The folder is known by names and sizes of its images only; their contents were not compared"


def images_line(run: RunDirectory) -> str | None:
    """`images: read 5,395, passed over 0, ...`; None for a set that is not read from files, or where nothing was read yet.

    Raises ValueError for a damaged record.
    """
    record = read_record(schema.Images, run.path / schema.IMAGES)
    return record["line"] if record else None


def known_by_names(configs: Iterable[Mapping[str, Any]]) -> bool:
    """Is a folder among these configs (in plain values) known by names and sizes only?"""
    return any(
        config.get("data", {}).get("name") == "folder" and len(config["data"].get("fingerprint") or "") == NAMES_DIGITS
        for config in configs
    )
