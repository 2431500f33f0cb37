"""Sets that come as image files: decoded once into memory, or checked once and then streamed.

N images, S side in pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from moco.config import Data
from moco.data.contents import cache_folder
from moco.data.decode import (
    Log,
    Picture,
    Unreadable,
    centre_square,
    for_each_file,
    highest,
    open_picture,
    to_tensor,
)
from moco.data.folder import Listing, shown
from moco.data.holdout import held_out, hold_out
from moco.data.seen import Seen, refuse_if_blank, refuse_if_dark
from moco.data.splits import ImageData, Split, require_memory, resident_split, streamed_split

Make = Callable[[Tensor], Split]


@dataclass(frozen=True)
class Facts:
    """What was met in a file, without its pixels."""

    deep: bool
    deepest: int | None
    clear: bool
    one_colour: bool

    @staticmethod
    def of(picture: Picture) -> Facts:
        return Facts(picture.deep, picture.deepest, picture.clear, picture.one_colour)


@dataclass(frozen=True)
class _Files:
    """A set before anything is read."""

    listing: Listing
    data: Data
    paths: list[str]
    labels_N: Tensor

    @property
    def of_train(self) -> int:
        return len(self.listing.train_files)


def image_data(listing: Listing, data: Data, log: Log) -> ImageData:
    """Train, validation (held out of train/) and test (val/), without the files that cannot be decoded.

    Held in memory, an image is its central square, resized so that the short side is `data.image_size`: a crop of it is
    enlarged, as it is for CIFAR. `data.stream=true` crops from the full picture, as the papers do for ImageNet.

    `log` gets one line that says what happened to the files, and one for each that cannot be read; those are left out, and the
    split of the others does not depend on them. Raises ValueError for more than `data.max_corrupt` of them, when the images
    would not fit into memory, when 16-bit files hold levels of fewer bits and `data.bits` does not say of how many, and when
    most images are of one colour.
    """
    labels_N = torch.tensor([*listing.train_labels, *listing.val_labels])
    files = _Files(listing, data, [str(listing.root / file) for file in listing.files], labels_N)
    make, found = (_streamed if data.stream else _resident)(files, log)
    unreadable = [each for each in found if isinstance(each, Unreadable)]
    _judge(unreadable, data, log)
    seen = _summary(files, found) if found else None
    if seen is not None:
        log(seen.line())
    names = {failure.path for failure in unreadable}
    readable_N = torch.tensor([path not in names for path in files.paths])
    count = files.of_train
    total = held_out(count, data.validation_share)
    kept, held = hold_out(labels_N[:count], total, data.name, "validation")
    train, validation = (make(part[readable_N[part]]) for part in (kept, held))
    test = make(count + readable_N[count:].nonzero().squeeze(1))
    _require_classes(train, listing)
    test = Split(test.images, test.labels_N, test.ids_N - count)
    return ImageData(train, validation, test, train, listing.classes, seen)


def _resident(files: _Files, log: Log) -> tuple[Make, list[Facts | Unreadable]]:
    size, bits = files.data.image_size, files.data.bits
    require_memory(len(files.paths), size)
    images_N3SS = torch.empty(len(files.paths), 3, size, size, dtype=torch.uint8)

    def read(path: str) -> tuple[Tensor, Facts]:
        # Twice the size is kept of a large JPEG: quicker by far, and the resize still averages over 2 x 2 pixels.
        picture = open_picture(path, at_least=2 * size, bits=bits)
        return to_tensor(centre_square(picture.image, size, size)), Facts.of(picture)

    found: list[Facts | Unreadable] = []
    for position, result in enumerate(for_each_file(read, files.paths, "decoding", log)):
        if isinstance(result, Unreadable):
            found.append(result)
        else:
            images_N3SS[position], facts = result
            found.append(facts)
    return partial(resident_split, images_N3SS, files.labels_N), found


def _streamed(files: _Files, log: Log) -> tuple[Make, list[Facts | Unreadable]]:
    data = files.data
    return partial(streamed_split, files.paths, data.image_size, files.labels_N, bits=data.bits), _check(files, log)


def _summary(files: _Files, found: Sequence[Facts | Unreadable]) -> Seen:
    """Raises ValueError for images that are dark or blank by a mistake."""
    data = files.data
    seen = counted(found, data.bits).and_listed(files.listing)
    if data.bits is not None and not seen.deep:
        raise ValueError(
            f"data.bits = {data.bits}: no file has levels of 16 bits, so it would change nothing; leave it out"
        )
    refuse_if_dark(seen, data.bits)
    parts = (("train/", found[: files.of_train]), ("val/", found[files.of_train :]))
    by_split = [(f"{shown(files.listing.root)}/{name}", counted(part, data.bits)) for name, part in parts]
    refuse_if_blank((name, each.read, each.one_colour) for name, each in by_split)
    return seen


def counted(found: Sequence[Facts | Unreadable], bits: int | None) -> Seen:
    facts = [each for each in found if isinstance(each, Facts)]
    quarter = (highest(bits) + 1) // 4
    return Seen(
        read=len(facts),
        skipped=len(found) - len(facts),
        one_colour=sum(each.one_colour for each in facts),
        deep=sum(each.deep for each in facts),
        deepest=max((each.deepest for each in facts if each.deepest is not None), default=None),
        dim=sum(each.deepest is not None and each.deepest < quarter for each in facts),
        clear=sum(each.clear for each in facts),
        of=highest(bits),
    )


def _check(files: _Files, log: Log) -> list[Facts | Unreadable]:
    """Decodes everything once per contents of the folder, not once per run: what was met is remembered under them.

    The published sets (no fingerprint) are taken as intact: the list is empty.
    """
    listing, bits = files.listing, files.data.bits
    if not listing.fingerprint:
        return []
    known = cache_folder() / f"images-{listing.contents().fingerprint}{f'-{bits}-bits' if bits else ''}.json"
    if (found := _remembered(known, files)) is not None:
        return found
    found = list(for_each_file(lambda path: Facts.of(open_picture(path, bits=bits)), files.paths, "checking", log))
    failures = [each for each in found if isinstance(each, Unreadable)]
    if any(isinstance(failure.__cause__, OSError) and failure.__cause__.errno for failure in failures):
        return found  # the disk's fault (no access, no connection), not the files': may pass
    plain = [each.reason if isinstance(each, Unreadable) else list(astuple(each)) for each in found]
    _remember(known, plain, log)
    return found


def _remembered(known: Path, files: _Files) -> list[Facts | Unreadable] | None:
    """One entry for each file, in order: the reason why it cannot be read, or its facts. None if there is no such record."""
    try:
        plain = json.loads(known.read_text())
        if len(plain) != len(files.paths):
            return None
        pairs = zip(files.paths, plain, strict=True)
        return [Unreadable(path, each) if isinstance(each, str) else Facts(*each) for path, each in pairs]
    except (OSError, ValueError, TypeError):  # not there, or written by another version
        return None


def _remember(path: Path, plain: list[str | list[object]], log: Log) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_file = path.with_suffix(f".{os.getpid()}")
        partial_file.write_text(json.dumps(plain))
        partial_file.replace(path)  # whole or not at all: several runs may check the same folder
    except OSError as reason:
        log(f"cannot remember which files are unreadable ({reason}); they will be checked again")


def _judge(unreadable: list[Unreadable], data: Data, log: Log) -> None:
    if len(unreadable) > data.max_corrupt:
        shown_ones = "; ".join(map(str, unreadable[:20])) + ("; ..." if len(unreadable) > 20 else "")
        raise ValueError(
            f"data.max_corrupt = {data.max_corrupt}: {len(unreadable)} image files cannot be read; repair or remove "
            f"them, or raise data.max_corrupt: {shown_ones}"
        )
    for failure in unreadable:
        log(f"skipped, cannot be read: {failure}")


def _require_classes(train: Split, listing: Listing) -> None:
    counts = torch.bincount(train.labels_N, minlength=len(listing.classes))
    lost = [name for name, count in zip(listing.classes, counts.tolist(), strict=True) if count == 0]
    if lost:
        raise ValueError(
            f"{shown(listing.root)}/train: no readable image left to train on in class {', '.join(map(shown, lost))}"
        )
