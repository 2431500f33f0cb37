"""What image sets exist, how large they are and what to provide when there is no network. Imports no torch."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from moco.config import Config, Data
from moco.data.folder import Listing, at_home, list_folder
from moco.data.folder import known_by as known_by
from moco.data.folder import shown as shown
from moco.data.holdout import held_out, quotas
from moco.data.look import Look as Look
from moco.data.look import look

FOLDER = "folder"


@dataclass(frozen=True)
class SetFacts:
    """Counts are of the official splits. `native_size`: side in pixels, None where the files differ."""

    train: int
    test: int
    classes: int
    native_size: int | None
    licence: str
    unlabelled: int = 0  # if any, these are the images to pre-train on
    present: str = ""  # path under the root that is there when the set is; empty: comes with the package
    provide: str = ""  # what to put there by hand
    downloads: bool = False
    files: bool = False  # image files on disk, which can be streamed; else arrays, always held in memory
    folder: str = ""  # of its own under the shared folder of downloads, if it has one
    archives: str = ""  # pattern of files under the root that `present` is unpacked from when it is not there


Load = Callable[[Data, Callable[[str], None]], Any]  # gives a moco.data.splits.ImageData

_FACTS: dict[str, SetFacts] = {}
_LOADERS: dict[str, Load] = {}


def image_set(facts: SetFacts) -> Callable[[Load], Load]:
    """Register a loader, and what is known of its set, under the function's name. The loader imports torch in its body."""

    def register(load: Load) -> Load:
        _FACTS[load.__name__], _LOADERS[load.__name__] = facts, load
        return load

    return register


def sets() -> dict[str, SetFacts]:
    """Every set of a file in `moco/data/sets`, in the order of the files' names and of the definitions in them."""
    _import_all()
    return _FACTS


def loader_of(name: str) -> Load:
    """What reads the images of that set. Only for names of `sets()`."""
    _import_all()
    return _LOADERS[name]


@cache
def _import_all() -> None:
    package = import_module("moco.data.sets")
    for module in sorted(module.name for module in iter_modules(package.__path__)):
        import_module(f"{package.__name__}.{module}")


_IMAGENETTE = {"160px": 160, "320px": 320}


def imagenette_size(image_size: int) -> str:
    """The smallest published copy whose short side still covers the evaluation resize (image_size x 256/224)."""
    return next((name for name, side in _IMAGENETTE.items() if evaluation_resize(image_size) <= side), "full")


def imagenette_folder(image_size: int) -> str:
    return {"160px": "imagenette2-160", "320px": "imagenette2-320", "full": "imagenette2"}[imagenette_size(image_size)]


def evaluation_resize(image_size: int) -> int:
    """Short side before the centre crop: 256 for 224, as in the papers."""
    return round(image_size * 256 / 224)


def root_of(data: Data) -> Path:
    """Where downloads are kept: `data.root`, else $MOCO_DATA, else ~/.cache/moco (ImageNet: its folder imagenet)."""
    if data.root:
        return at_home(Path(data.root), "data.root").absolute()
    shared = at_home(Path(os.environ.get("MOCO_DATA") or "~/.cache/moco"), "MOCO_DATA").absolute()
    return shared / facts.folder if (facts := sets().get(data.name)) else shared


def present_path(data: Data) -> Path:
    return root_of(data) / sets()[data.name].present.format(imagenette=imagenette_folder(data.image_size))


def how_to_provide(data: Data) -> str:
    """One clause for error messages: the command or the files, and where they belong."""
    provide = sets()[data.name].provide.format(imagenette_size=imagenette_size(data.image_size))
    if sets()[data.name].downloads:
        return f"run {provide.replace('DIR', str(root_of(data)))} and copy the folder here, or set data.root"
    return f"put {provide} into {root_of(data)}, or set data.root"


def training_images(data: Data) -> int:
    """Images to pre-train on, after the validation images are held out: exactly what `moco.data.load` gives.

    For `folder` files are counted, neither decoded nor compared: unreadable ones (at most `data.max_corrupt`) are still in the
    count. Raises ValueError as `resolve` does.
    """
    _require_known(data)
    if data.name == FOLDER:
        total = _counted_once(data) if data.fingerprint else _counted(data)
        return total - held_out(total, data.validation_share)
    facts = sets()[data.name]
    return facts.unlabelled or facts.train - held_out(facts.train, data.validation_share)


def resolve(data: Data) -> Data:
    """The same data with an absolute root and, for `folder`, the fingerprint of its files. One that is given is kept: of 16
    digits it is of names and sizes, as in configs of before contents were compared.

    Raises ValueError (one line) for what can be known without decoding an image: an unknown set, a missing folder or class, an
    empty class, files that are not those of a given fingerprint, a set that is not there and cannot be downloaded, streaming
    from a set that has no files.
    """
    _require_known(data)
    if data.name == FOLDER:
        listing = folder_listing(data)
        _require_holdout(listing, data.validation_share)
        return replace(data, root=str(listing.root), fingerprint=listing.fingerprint)
    facts = sets()[data.name]
    if data.stream and not facts.files:
        streaming = ", ".join([FOLDER, *(name for name, f in sets().items() if f.files)])
        raise ValueError(f"data.stream = True: {data.name} is always held in memory; only {streaming} can be streamed")
    if data.bits is not None:
        raise ValueError(
            f"data.bits = {data.bits}: {data.name} has no levels of 16 bits; only {FOLDER} may; leave it out"
        )
    if facts.present and not (facts.downloads and data.download):
        require_present(data)
    return replace(data, root=str(root_of(data)) if data.root else None, fingerprint="")


def check_labels(config: Config) -> None:
    """Raises ValueError for a config that needs labels of images that have none. An unknown set is for `resolve` to refuse."""
    facts = sets().get(config.data.name)
    if config.needs_labels and facts and facts.unlabelled:
        raise ValueError(
            f"{config.needs_labels} and data.name = {config.data.name}: its images for pre-training have no labels; "
            "choose a labelled set or loss.positives=own"
        )


def require_present(data: Data) -> None:
    """Raises ValueError, in one sentence with the remedy, unless the set is on the disk."""
    path, archives = present_path(data), sets()[data.name].archives
    if not path.is_dir() and not (archives and any(path.parent.glob(archives))):
        raise ValueError(f"data.name = {data.name}: {path} is not there; {how_to_provide(data)}")


def _require_known(data: Data) -> None:
    known = [*sets(), FOLDER]
    if data.name not in known:
        close = difflib.get_close_matches(data.name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"data.name = {data.name}: no such image set; {hint}Known: {', '.join(known)}")


@cache
def _counted_once(data: Data) -> int:
    """A resolved folder is listed once however many arms ask: its fingerprint is part of the question."""
    return _counted(data)


def _counted(data: Data) -> int:
    """Files in train/."""
    by_names = data.fingerprint and known_by(data.fingerprint) == "names"
    return len(list_folder(_folder_of(data), compare="names" if by_names else "nothing").train_files)


def folder_listing(data: Data) -> Listing:
    """The files of `data.root`, compared with the fingerprint if the data have one. Raises ValueError if they are others."""
    compare = known_by(data.fingerprint)
    listing = list_folder(_folder_of(data), compare=compare)
    if data.fingerprint not in ("", listing.fingerprint):
        what = "its files" if compare == "contents" else "names or sizes of its files"
        raise ValueError(
            f"data.root = {shown(listing.root)}: {what} changed since this run was planned (fingerprint "
            f"{data.fingerprint}, now {listing.fingerprint}); restore them or start the sweep again"
        )
    return listing


def known_by_names(data: Data) -> Data:
    """Of resolved data of `folder`: the same as configs had it when only names and sizes were compared."""
    return replace(data, fingerprint=list_folder(_folder_of(data), compare="names").fingerprint)


def last_change_ns(data: Data) -> int:
    """When a file that such data hold last changed, in nanoseconds since 1970."""
    return list_folder(_folder_of(data), compare="names").contents().changed_ns


def look_at(data: Data) -> Look:
    """Number and size of a folder's images. Raises ValueError as `resolve` does, and where no image can be opened."""
    return look(list_images(data), data.validation_share)


def list_images(data: Data) -> Listing:
    """A folder's files, compared with nothing."""
    return list_folder(_folder_of(data), compare="nothing")


def _folder_of(data: Data) -> Path:
    if data.root is None:
        raise ValueError(
            "data.root is not set: data.name = folder needs data.root=DIR, where DIR holds train/<class>/* and "
            "val/<class>/*"
        )
    return Path(data.root)


def _require_holdout(listing: Listing, share: float) -> None:
    counts = [listing.train_labels.count(label) for label in range(len(listing.classes))]
    quotas(counts, held_out(sum(counts), share))
