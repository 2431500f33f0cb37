"""A sweep as it was planned, on disk: later tables know from it what is missing."""

from __future__ import annotations

from pathlib import Path

from experiments.store import schema
from experiments.store.files import read_json
from experiments.store.schema import Manifest
from experiments.store.search_record import search_manifests


def manifest_path(root: Path, label: str) -> Path:
    return root / schema.SWEEPS_FOLDER / f"{label}.json"


def read_manifest(root: Path, label: str) -> Manifest | None:
    """Raises ValueError for a file that is damaged or written by a newer version."""
    path = manifest_path(root, label)
    manifest: Manifest | None = read_json(path)
    if manifest is not None and manifest["store_version"] > schema.STORE_VERSION:
        raise ValueError(
            f"{path}: store version {manifest['store_version']} is newer than this program's {schema.STORE_VERSION}; update it"
        )
    return manifest


def all_manifests(root: Path) -> list[Manifest]:
    """The newest first; searches among them, as sweeps of their trials."""
    labels = [
        path.stem if path.suffix == ".json" else path.name for path in (root / schema.SWEEPS_FOLDER).glob("*.json")
    ]
    found = [m for label in labels if (m := read_manifest(root, label))]
    found += search_manifests(root)
    return sorted(found, key=lambda m: m["updated"], reverse=True)
