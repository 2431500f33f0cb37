"""Published sets through torchvision: found on the disk, or downloaded where the licence allows it.

N images, H x W native size.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moco.config import Data
from moco.data.catalog import how_to_provide, imagenette_size, present_path, root_of, sets
from moco.data.decode import Log
from moco.data.folder import Listing, list_folder
from moco.data.splits import Arrays

PATIENCE_SECONDS = 30.0  # without a byte from the server


def arrays(read: Callable[[dict[str, Any]], Arrays], data: Data, log: Log) -> Arrays:
    """What `read` makes of torchvision's set, by its arguments `root` and `download`. Raises ValueError, one sentence, when
    it cannot be had."""
    with _fetching(data, log) as options:
        return read(options)


def cifar10(options: dict[str, Any]) -> Arrays:
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, options)


def cifar100(options: dict[str, Any]) -> Arrays:
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, options)


def _cifar(dataset: Callable[..., Any], options: dict[str, Any]) -> Arrays:
    train, test = dataset(train=True, **options), dataset(train=False, **options)

    def images(split: Any) -> Tensor:
        return torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()

    return Arrays(
        images(train), torch.tensor(train.targets), images(test), torch.tensor(test.targets), tuple(train.classes)
    )


def fashion_mnist(options: dict[str, Any]) -> Arrays:
    from torchvision.datasets import FashionMNIST

    train, test = FashionMNIST(train=True, **options), FashionMNIST(train=False, **options)
    return Arrays(train.data[:, None], train.targets, test.data[:, None], test.targets, tuple(train.classes))


def stl10(options: dict[str, Any]) -> Arrays:
    """Files store columns first; torchvision's array is (N, 3, H, W) again."""
    from torchvision.datasets import STL10

    train, test, unlabelled = (STL10(split=name, **options) for name in ("train", "test", "unlabeled"))

    def images(split: Any) -> Tensor:
        return torch.from_numpy(split.data).contiguous()

    def labels(split: Any) -> Tensor:
        return torch.from_numpy(split.labels).long()

    return Arrays(images(train), labels(train), images(test), labels(test), tuple(train.classes), images(unlabelled))


def listing(fetch: Callable[[Data, dict[str, Any]], Path], data: Data, log: Log) -> Listing:
    """The files in the folder that `fetch` provides. Raises ValueError when they cannot be had or some are missing."""
    with _fetching(data, log) as options:
        found = list_folder(fetch(data, options), compare="nothing")
    facts = sets()[data.name]
    counts = (len(found.classes), len(found.train_files), len(found.val_files))
    if counts != (facts.classes, facts.train, facts.test):
        raise ValueError(
            f"data.name = {data.name}: {found.root} holds {counts[0]:,} classes, {counts[1]:,} training and "
            f"{counts[2]:,} validation images instead of {facts.classes:,}, {facts.train:,} and {facts.test:,}; "
            "complete it, or use a part of it with data.name=folder"
        )
    return found


def fetch_imagenette(data: Data, options: dict[str, Any]) -> Path:
    from torchvision.datasets import Imagenette

    if not present_path(data).is_dir():  # older releases of torchvision refuse to download what is there
        Imagenette(size=imagenette_size(data.image_size), **options)
    return present_path(data)


def fetch_imagenet(data: Data, options: dict[str, Any]) -> Path:
    """Never downloaded; the archives of image-net.org are unpacked if the folders are not there yet."""
    root = root_of(data)
    for split in ("train", "val"):
        if not (root / split).is_dir() and any(root.glob("ILSVRC2012_*.tar")):
            from torchvision.datasets import ImageNet

            ImageNet(str(root), split=split)
    return root


@contextlib.contextmanager
def _fetching(data: Data, log: Log) -> Iterator[dict[str, Any]]:
    """The arguments for torchvision. One run of a sweep downloads, the others wait; a failure becomes a sentence."""
    root, download = root_of(data), sets()[data.name].downloads and data.download
    there = present_path(data).exists()
    if download and not there:
        log(f"downloading {data.name} to {root} ({sets()[data.name].licence})")
    try:
        waiting = contextlib.nullcontext() if there else _lock(root / ".download.lock")
        with waiting, _patience(PATIENCE_SECONDS), contextlib.redirect_stdout(io.StringIO()):  # torchvision prints
            yield {"root": str(root), "download": download}
    except (RuntimeError, OSError, ModuleNotFoundError) as reason:
        raise ValueError(
            f"data.name = {data.name}: cannot be {'downloaded' if download else 'read'} ({_one_line(reason)}); "
            f"{how_to_provide(data)}"
        ) from reason


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """A node behind a silent firewall would otherwise wait for minutes before it says that there is no network."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _one_line(reason: Exception) -> str:
    return " ".join(str(reason).split())
