"""What image sets exist, how large they are and what to provide when there is no network. Imports no torch."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from moco.config import Data
from moco.data.folder import Listing, list_folder
from moco.data.holdout import held_out, quotas

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


def _torchvision(name: str, *arguments: str) -> str:
    call = ", ".join(["'DIR'", *arguments, "download=True"])
    return f'python -c "import torchvision; torchvision.datasets.{name}({call})" on a machine with a network'


SETS: dict[str, SetFacts] = {
    "digits": SetFacts(1437, 360, 10, 8, "BSD-3-Clause with scikit-learn; UCI, CC BY 4.0"),
    "digits4": SetFacts(575, 145, 4, 8, "as the digits, the first four classes of them"),
    "shapes": SetFacts(4000, 1000, 10, None, "drawn by this package"),
    "cifar10": SetFacts(
        50_000,
        10_000,
        10,
        32,
        "no licence stated, research use; 170 MB",
        present="cifar-10-batches-py",
        provide=_torchvision("CIFAR10"),
        downloads=True,
    ),
    "cifar100": SetFacts(
        50_000,
        10_000,
        100,
        32,
        "no licence stated, research use; 169 MB",
        present="cifar-100-python",
        provide=_torchvision("CIFAR100"),
        downloads=True,
    ),
    "stl10": SetFacts(
        5_000,
        8_000,
        10,
        96,
        "from ImageNet, research use; 2.6 GB",
        unlabelled=100_000,
        present="stl10_binary",
        provide=_torchvision("STL10"),
        downloads=True,
    ),
    "fashion_mnist": SetFacts(
        60_000,
        10_000,
        10,
        28,
        "MIT; 30 MB",
        present="FashionMNIST",
        provide=_torchvision("FashionMNIST"),
        downloads=True,
    ),
    "imagenette": SetFacts(
        9_469,
        3_925,
        10,
        None,
        "Apache-2.0; 0.1 to 1.6 GB by size",
        present="{imagenette}",
        provide=_torchvision("Imagenette", "size='{imagenette_size}'"),
        downloads=True,
        files=True,
    ),
    "imagenet": SetFacts(
        1_281_167,
        50_000,
        1000,
        None,
        "research only, on request from image-net.org; 150 GB",
        present="train",
        provide="train/<class>/*.JPEG and val/<class>/*.JPEG, or the three ILSVRC2012 archives from image-net.org",
        files=True,
    ),
}

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
        return Path(data.root).expanduser().absolute()
    shared = Path(os.environ.get("MOCO_DATA") or "~/.cache/moco").expanduser().absolute()
    return shared / "imagenet" if data.name == "imagenet" else shared


def present_path(data: Data) -> Path:
    return root_of(data) / SETS[data.name].present.format(imagenette=imagenette_folder(data.image_size))


def how_to_provide(data: Data) -> str:
    """One clause for error messages: the command or the files, and where they belong."""
    provide = SETS[data.name].provide.format(imagenette_size=imagenette_size(data.image_size))
    if SETS[data.name].downloads:
        return f"run {provide.replace('DIR', str(root_of(data)))} and copy the folder here, or set data.root"
    return f"put {provide} into {root_of(data)}, or set data.root"


def training_images(data: Data) -> int:
    """Images to pre-train on, after the validation images are held out: exactly what `moco.data.load` gives.

    For `folder` files are counted, not decoded: unreadable ones (at most `data.max_corrupt`) are still in the count.
    Raises ValueError as `resolve` does.
    """
    _require_known(data)
    if data.name == FOLDER:
        total = _listed_once(data) if data.fingerprint else len(folder_listing(data).train_files)
        return total - held_out(total, data.validation_share)
    facts = SETS[data.name]
    return facts.unlabelled or facts.train - held_out(facts.train, data.validation_share)


def resolve(data: Data) -> Data:
    """The same data with an absolute root and, for `folder`, the fingerprint of its files.

    Raises ValueError (one line) for what can be known without reading an image: an unknown set, a missing folder or
    class, an empty class, a set that is not there and cannot be downloaded, streaming from a set that has no files.
    """
    _require_known(data)
    if data.name == FOLDER:
        listing = folder_listing(replace(data, fingerprint=""))
        _require_holdout(listing, data.validation_share)
        return replace(data, root=str(listing.root), fingerprint=listing.fingerprint)
    facts = SETS[data.name]
    if data.stream and not facts.files:
        streaming = ", ".join([FOLDER, *(name for name, f in SETS.items() if f.files)])
        raise ValueError(f"data.stream = True: {data.name} is always held in memory; only {streaming} can be streamed")
    if facts.present and not (facts.downloads and data.download):
        require_present(data)
    return replace(data, root=str(root_of(data)) if data.root else None, fingerprint="")


def require_present(data: Data) -> None:
    """Raises ValueError, in one sentence with the remedy, unless the set is on the disk."""
    path = present_path(data)
    archives = path.parent.glob("ILSVRC2012_img_train.tar")
    if not path.is_dir() and not (data.name == "imagenet" and any(archives)):
        raise ValueError(f"data.name = {data.name}: {path} is not there; {how_to_provide(data)}")


def _require_known(data: Data) -> None:
    known = [*SETS, FOLDER]
    if data.name not in known:
        close = difflib.get_close_matches(data.name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"data.name = {data.name}: no such image set; {hint}Known: {', '.join(known)}")


@cache
def _listed_once(data: Data) -> int:
    """A resolved folder is listed once however many arms ask: its fingerprint is part of the question."""
    return len(folder_listing(data).train_files)


def folder_listing(data: Data) -> Listing:
    """The files of `data.root`. Raises ValueError if they are not those that the data were resolved with."""
    if data.root is None:
        raise ValueError(
            "data.root is not set: data.name = folder needs data.root=DIR, where DIR holds train/<class>/* and "
            "val/<class>/*"
        )
    listing = list_folder(Path(data.root))
    if data.fingerprint not in ("", listing.fingerprint):
        raise ValueError(
            f"data.root = {listing.root}: its files changed since this run was planned (fingerprint "
            f"{data.fingerprint}, now {listing.fingerprint}); restore them or start the sweep again"
        )
    return listing


def _require_holdout(listing: Listing, share: float) -> None:
    counts = [listing.train_labels.count(label) for label in range(len(listing.classes))]
    quotas(counts, held_out(sum(counts), share))
