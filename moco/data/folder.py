"""Your own images: DIR/train/<class>/* and DIR/val/<class>/*. Lists files; imports no torch and decodes nothing."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LAYOUT = "it must hold train/<class>/* and val/<class>/*"


@dataclass(frozen=True)
class Listing:
    """Image files, relative to `root`, sorted; labels are positions in `classes`. `val` is the test split."""

    root: Path
    classes: tuple[str, ...]
    train_files: tuple[str, ...]
    train_labels: tuple[int, ...]
    val_files: tuple[str, ...]
    val_labels: tuple[int, ...]
    fingerprint: str  # 16 hexadecimal digits over names and sizes: a file added, removed or resized changes it


def list_folder(root: Path, *, fingerprint: bool = True) -> Listing:
    """Lists a folder. Subfolders of a class belong to it; hidden files and files that are no images are passed over.

    Raises ValueError, one line, for a missing folder, train/ or val/, no class folder, a class without an image file,
    and a class in val/ that train/ lacks.
    """
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"data.root = {root}: no such folder; {LAYOUT}")
    train, val = _split_files(root, "train"), _split_files(root, "val")
    strange = sorted(set(val) - set(train))
    if strange:
        raise ValueError(f"{root}/val: {_some(strange)} not in train/; both must have the same class folders")
    classes = tuple(train)
    labels = {name: label for label, name in enumerate(classes)}
    files = [file for split in (train, val) for members in split.values() for file in members]
    return Listing(
        root,
        classes,
        tuple(file for members in train.values() for file in members),
        tuple(labels[name] for name, members in train.items() for _ in members),
        tuple(file for members in val.values() for file in members),
        tuple(labels[name] for name, members in val.items() for _ in members),
        _fingerprint(root, files) if fingerprint else "",
    )


def _split_files(root: Path, split: str) -> dict[str, list[str]]:
    """Class -> its image files relative to `root`, both sorted."""
    folder = root / split
    if not folder.is_dir():
        raise ValueError(f"data.root = {root}: no folder {split}/ in it; {LAYOUT}")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ValueError(f"{folder}: no class folders in it; put the images into {split}/<class>/")
    files = {name: _image_files(root, folder / name) for name in names}
    empty = [name for name, members in files.items() if not members]
    if len(empty) == len(names):
        raise ValueError(f"{folder}: no image files in it; known are {' '.join(EXTENSIONS)}")
    if empty:
        raise ValueError(f"{folder}: no image files in class {_some(empty)}; add images or remove the folder")
    return files


def _image_files(root: Path, folder: Path) -> list[str]:
    found: list[str] = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        images = (name for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith("."))
        found.extend(os.path.relpath(os.path.join(parent, name), root) for name in images)
    return sorted(found)


def _fingerprint(root: Path, files: list[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\0{_size(root / file)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _size(path: Path) -> int:
    """Bytes; -1 for a link to nothing, which decoding will report by name."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
