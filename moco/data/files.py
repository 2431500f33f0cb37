"""Sets that come as image files: decoded once into memory, or checked once and then streamed.

N images, S side in pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from moco.config import Data
from moco.data.decode import Log, Unreadable, check, for_each_file, read_square
from moco.data.folder import Listing
from moco.data.holdout import held_out, hold_out
from moco.data.splits import ImageData, Split, require_memory, resident_split, streamed_split

Make = Callable[[Tensor], Split]


def image_data(listing: Listing, data: Data, log: Log) -> ImageData:
    """Train, validation (held out of train/) and test (val/), without the files that cannot be decoded.

    Held in memory, an image is its central square, resized so that the short side is `data.image_size`: a crop of it is
    enlarged, as it is for CIFAR. `data.stream=true` crops from the full picture, as the papers do for ImageNet.

    Unreadable files are named through `log` and left out; the split of the others does not depend on them. Raises
    ValueError for more than `data.max_corrupt` of them, and when the images would not fit into memory.
    """
    read = _streamed if data.stream else _resident
    files = [*listing.train_files, *listing.val_files]
    paths = [str(listing.root / file) for file in files]
    labels_N = torch.tensor([*listing.train_labels, *listing.val_labels])
    make, readable_N = read(paths, labels_N, listing, data, log)
    count = len(listing.train_files)
    total = held_out(count, data.validation_share)
    kept, held = hold_out(labels_N[:count], total, data.name, "validation")
    train, validation = (make(part[readable_N[part]]) for part in (kept, held))
    test = make(count + readable_N[count:].nonzero().squeeze(1))
    _require_classes(train, listing)
    return ImageData(train, validation, Split(test.images, test.labels_N, test.ids_N - count), train, listing.classes)


def _resident(paths: list[str], labels_N: Tensor, listing: Listing, data: Data, log: Log) -> tuple[Make, Tensor]:
    size = data.image_size
    require_memory(len(paths), size)
    images_N3SS = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    # Twice the size is kept of a large JPEG: quicker by far, and the resize still averages over 2 x 2 pixels.
    read = partial(read_square, short_side=size, size=size, at_least=2 * size)
    unreadable = []
    for position, image in enumerate(for_each_file(read, paths, "decoding", log)):
        if isinstance(image, Unreadable):
            unreadable.append(image)
        else:
            images_N3SS[position] = image
    _judge(unreadable, data, log)
    return partial(resident_split, images_N3SS, labels_N), _readable(paths, unreadable)


def _streamed(paths: list[str], labels_N: Tensor, listing: Listing, data: Data, log: Log) -> tuple[Make, Tensor]:
    unreadable = _check(paths, listing, log)
    _judge(unreadable, data, log)
    return partial(streamed_split, paths, data.image_size, labels_N), _readable(paths, unreadable)


def _readable(paths: list[str], unreadable: list[Unreadable]) -> Tensor:
    """bool (N,)."""
    names = {failure.path for failure in unreadable}
    return torch.tensor([path not in names for path in paths])


def _check(paths: list[str], listing: Listing, log: Log) -> list[Unreadable]:
    """Decodes everything once per folder content, not once per run: what failed is remembered under the fingerprint.

    The published sets (no fingerprint) are taken as intact.
    """
    if not listing.fingerprint:
        return []
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "moco"
    known = cache / f"unreadable-{listing.fingerprint}.json"
    if known.exists():
        return [Unreadable(str(listing.root / file), reason) for file, reason in json.loads(known.read_text()).items()]
    failures = [found for found in for_each_file(check, paths, "checking", log) if found is not None]
    if any(isinstance(failure.__cause__, OSError) and failure.__cause__.errno for failure in failures):
        return failures  # the disk's fault (no access, no connection), not the files': may pass
    _remember(known, {os.path.relpath(failure.path, listing.root): failure.reason for failure in failures}, log)
    return failures


def _remember(path: Path, reasons: dict[str, str], log: Log) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_file = path.with_suffix(f".{os.getpid()}")
        partial_file.write_text(json.dumps(reasons))
        partial_file.replace(path)  # whole or not at all: several runs may check the same folder
    except OSError as reason:
        log(f"cannot remember which files are unreadable ({reason}); they will be checked again")


def _judge(unreadable: list[Unreadable], data: Data, log: Log) -> None:
    if len(unreadable) > data.max_corrupt:
        shown = "; ".join(map(str, unreadable[:20])) + ("; ..." if len(unreadable) > 20 else "")
        raise ValueError(
            f"data.max_corrupt = {data.max_corrupt}: {len(unreadable)} image files cannot be read; repair or remove "
            f"them, or raise data.max_corrupt: {shown}"
        )
    for failure in unreadable:
        log(f"skipped, cannot be read: {failure}")


def _require_classes(train: Split, listing: Listing) -> None:
    counts = torch.bincount(train.labels_N, minlength=len(listing.classes))
    lost = [name for name, count in zip(listing.classes, counts.tolist(), strict=True) if count == 0]
    if lost:
        raise ValueError(f"{listing.root}/train: no readable image left to train on in class {', '.join(lost)}")
