"""Reads manifests: sweeps as they were planned, from which tables know which runs are missing."""

from __future__ import annotations

from pathlib import Path

from experiments.store import records, schema
from experiments.store.files import Damaged, warn_once
from experiments.store.schema import Manifest
from experiments.store.search_record import search_manifests


def manifest_path(root: Path, label: str) -> Path:
    return root / schema.SWEEPS_FOLDER / f"{label}.json"


def read_manifest(root: Path, label: str) -> Manifest | None:
    """Raises ValueError for a file that is damaged or written by a newer version."""
    return records.read_record(Manifest, manifest_path(root, label))


def all_manifests(root: Path) -> list[Manifest]:
    """The newest first. Searches are among them, as sweeps whose arms are the trials.

    A damaged one is left out and named on standard error: it harms no other sweep.
    """
    labels = [
        path.stem if path.suffix == ".json" else path.name for path in (root / schema.SWEEPS_FOLDER).glob("*.json")
    ]
    found: list[Manifest] = []
    for label in labels:
        try:
            manifest = read_manifest(root, label)
        except Damaged as error:
            warn_once(f"{error}; the sweep is left out: its own command writes the file anew")
            continue
        if manifest:
            found.append(manifest)
    found += search_manifests(root)
    return sorted(found, key=lambda m: m["updated"], reverse=True)
