"""Your own images: DIR/train/<class>/* and DIR/val/<class>/*. Lists files; imports no torch and decodes nothing."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from moco.data.contents import Contents, contents_of

# What was read when a folder was known by names and sizes: a fingerprint of that time is of these files alone.
FIRST_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LATER_EXTENSIONS = (".apng", ".avif", ".dib", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpf", ".jpx")
RARE_EXTENSIONS = (".pbm", ".pcx", ".pnm", ".qoi", ".ras", ".sgi", ".tga")
# What Pillow reads as one picture. Not among them: pages (.pdf, .eps), films (.mpg), icons, tables (.fits, .hdf).
EXTENSIONS = tuple(sorted((*FIRST_EXTENSIONS, *LATER_EXTENSIONS, *RARE_EXTENSIONS)))
LAYOUT = "it must hold train/<class>/* and val/<class>/*"

KnownBy = Literal["contents", "names", "nothing"]
NAMES_DIGITS, CONTENTS_DIGITS = 16, 32  # hexadecimal, so that the two kinds of fingerprint are told apart


def known_by(fingerprint: str) -> KnownBy:
    """What a fingerprint was made of: `names` (and sizes) in configs written before contents were compared."""
    return "names" if len(fingerprint) == NAMES_DIGITS else "contents"


@dataclass(frozen=True)
class Listing:
    """Image files, relative to `root`, sorted; labels are positions in `classes`. `val` is the test split."""

    root: Path
    classes: tuple[str, ...]
    train_files: tuple[str, ...]
    train_labels: tuple[int, ...]
    val_files: tuple[str, ...]
    val_labels: tuple[int, ...]
    fingerprint: str  # see `list_folder`; empty where nothing was compared
    passed_over: Mapping[str, int] = field(default_factory=dict)  # ending -> files under train/ and val/ not listed
    loops: tuple[str, ...] = ()  # links to a folder that holds them, not followed
    links: tuple[str, ...] = ()  # all links to folders

    @property
    def files(self) -> list[str]:
        return [*self.train_files, *self.val_files]

    def contents(self) -> Contents:
        """Whatever the fingerprint was made of."""
        return contents_of(self.root, self.files, self.links)


@dataclass
class _Walk:
    """What was found in a folder beside its images."""

    first_rules: bool
    links: list[str] = field(default_factory=list)  # to folders
    passed_over: Counter[str] = field(default_factory=Counter)
    loops: list[str] = field(default_factory=list)


def at_home(path: Path, said: str) -> Path:
    """With `~` written out. Raises ValueError, naming the setting, for a user without a home directory."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{said} = {shown(path)}: no home directory is known for ~; write the path in full") from None


def list_folder(root: Path, *, compare: KnownBy = "contents") -> Listing:
    """Lists a folder. Subfolders of a class belong to it, links to folders are followed; hidden files are left out, files that
    are no images by their name are counted.

    The fingerprint with `compare` = "contents": 32 hexadecimal digits over the names and contents of all images; "names": 16
    digits over names and sizes, of the files that were listed when that was all that was compared (fewer endings, no links
    to folders inside a class); "nothing": empty.

    Raises ValueError, one line, for a missing folder, train/ or val/, no class folder, a class without an image file,
    and a class in val/ that train/ lacks.
    """
    root = at_home(root, "data.root").absolute()
    if not root.is_dir():
        raise ValueError(f"data.root = {shown(root)}: no such folder; {LAYOUT}")
    walk = _Walk(first_rules=compare == "names")
    train, val = _split_files(root, "train", walk), _split_files(root, "val", walk)
    strange = sorted(set(val) - set(train))
    if strange:
        raise ValueError(f"{shown(root)}/val: {_some(strange)} not in train/; both must have the same class folders")
    classes = tuple(train)
    labels = {name: label for label, name in enumerate(classes)}
    files = [file for split in (train, val) for members in split.values() for file in members]
    fingerprint = ""
    if compare != "nothing":
        fingerprint = contents_of(root, files).fingerprint if compare == "contents" else _names_and_sizes(root, files)
    return Listing(
        root,
        classes,
        tuple(file for members in train.values() for file in members),
        tuple(labels[name] for name, members in train.items() for _ in members),
        tuple(file for members in val.values() for file in members),
        tuple(labels[name] for name, members in val.items() for _ in members),
        fingerprint,
        dict(walk.passed_over.most_common()),
        tuple(sorted(walk.loops)),
        tuple(walk.links),
    )


def _split_files(root: Path, split: str, walk: _Walk) -> dict[str, list[str]]:
    """Class -> its image files relative to `root`, both sorted."""
    folder = root / split
    if not folder.is_dir():
        raise ValueError(f"data.root = {shown(root)}: no folder {split}/ in it; {LAYOUT}")
    entries = entries_of(folder)
    walk.links += [split] if folder.is_symlink() else []
    walk.links += [f"{split}/{entry.name}" for entry in entries if entry.is_symlink() and entry.is_dir()]
    names = sorted(entry.name for entry in entries if entry.is_dir())
    walk.passed_over.update(_ending(entry.name) for entry in entries if not entry.is_dir())
    if not names:
        raise ValueError(f"{shown(folder)}: no class folders in it; put the images into {split}/<class>/")
    above = (_place(root), _place(folder))
    files = {name: sorted(_image_files(f"{split}/{name}", root, walk, above)) for name in names}
    empty = [name for name, members in files.items() if not members]
    if len(empty) == len(names):
        raise ValueError(f"{shown(folder)}: no image files in it; known are {' '.join(EXTENSIONS)}")
    if empty:
        raise ValueError(f"{shown(folder)}: no image files in class {_some(empty)}; add images or remove the folder")
    return files


def _image_files(folder: str, root: Path, walk: _Walk, above: tuple[tuple[int, int], ...]) -> list[str]:
    """Image files under `folder`, both relative to `root`. `above`: the folders that lead here, by device and inode."""
    here = _place(root / folder)
    if here in above:
        walk.loops.append(folder)
        return []
    found: list[str] = []
    endings = FIRST_EXTENSIONS if walk.first_rules else EXTENSIONS
    for entry in entries_of(root / folder):
        path = f"{folder}/{entry.name}"
        if entry.is_dir():
            if entry.is_symlink() and walk.first_rules:
                continue
            walk.links += [path] if entry.is_symlink() else []
            found += _image_files(path, root, walk, (*above, here))
        elif entry.name.lower().endswith(endings):
            found.append(path)
        else:
            walk.passed_over[_ending(entry.name)] += 1
    return found


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """All but the hidden ones."""
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as reason:
        raise ValueError(
            f"{shown(folder)}: cannot be listed ({reason.strerror}); its images would be missing"
        ) from None


def _place(folder: Path) -> tuple[int, int]:
    """Device and inode: the same however a folder is reached."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _ending(name: str) -> str:
    return shown(os.path.splitext(name)[1].lower()) or "no ending"


def _names_and_sizes(root: Path, files: list[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\0{_size(root / file)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:NAMES_DIGITS]


def _size(path: Path) -> int:
    """Bytes; -1 for a link to nothing, which decoding will report by name."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def shown(path: object) -> str:
    """A path or name for people; bytes of a name that is no UTF-8 as `\\xff`, which every terminal and log can take."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


def _some(names: list[str]) -> str:
    return ", ".join(map(shown, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
