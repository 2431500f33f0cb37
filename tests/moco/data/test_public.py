"""The sets that torchvision reads, from files written here in their published format; the way without a network."""

from __future__ import annotations

from dataclasses import replace
import hashlib
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from moco.config import Data
from moco.data import load
from moco.data.catalog import sets
from tests.support.data_files import bilinear, picture

RANDOM = np.random.default_rng(0)


def ignore(line: str) -> None:
    pass


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def write(folder: Path, name: str, data: bytes) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return [name, md5(data)]


def test_cifar10_in_its_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 3,072 bytes, red plane first; the checksums are those of the files written here."""
    folder, lists = tmp_path / "cifar-10-batches-py", []
    rows, labels = RANDOM.integers(0, 256, (120, 3072), dtype=np.uint8), [i % 10 for i in range(120)]
    for i in range(6):
        part = slice(20 * i, 20 * i + 20)
        entry = {"data": rows[part], "labels": labels[part]}
        lists.append(write(folder, f"data_batch_{i + 1}" if i < 5 else "test_batch", pickle.dumps(entry)))
    names = [f"class {i}" for i in range(10)]
    meta = write(folder, "batches.meta", pickle.dumps({"label_names": names}))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", lists[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", lists[5:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    data = load(Data(name="cifar10", root=str(tmp_path), download=False), ignore)
    assert data.classes == tuple(names)
    assert (len(data.train), len(data.validation)) == (90, 10)
    for split, offset in ((data.train, 0), (data.validation, 0), (data.test, 100)):
        ids = split.ids_N + offset
        assert torch.equal(split.images.take(torch.arange(len(split))), torch.from_numpy(rows)[ids].view(-1, 3, 32, 32))
        assert torch.equal(split.labels_N, ids % 10)


def test_cifar100_in_its_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    rows, fine = RANDOM.integers(0, 256, (400, 3072), dtype=np.uint8), [i % 100 for i in range(400)]
    parts = {"train": slice(0, 300), "test": slice(300, 400)}
    entries = {k: {"data": rows[s], "fine_labels": fine[s], "coarse_labels": [0] * 300} for k, s in parts.items()}
    files = {name: write(folder, name, pickle.dumps(entry)) for name, entry in entries.items()}
    meta = write(folder, "meta", pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [files["train"]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [files["test"]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": meta[1]})
    data = load(Data(name="cifar100", root=str(tmp_path), download=False), ignore)
    assert torch.equal(data.train.labels_N, data.train.ids_N % 100)
    assert torch.equal(data.test.images.take(torch.arange(100)), torch.from_numpy(rows)[300:].view(-1, 3, 32, 32))


def test_fashion_mnist_in_its_own_format(tmp_path: Path) -> None:
    """Big-endian idx files; enlarged from 28 to 56 pixels, grey in three channels."""
    raw = tmp_path / "FashionMNIST" / "raw"
    images, labels = RANDOM.integers(0, 256, (60, 28, 28), dtype=np.uint8), np.arange(60, dtype=np.uint8) % 10
    for prefix, part in (("train", slice(0, 40)), ("t10k", slice(40, 60))):
        count = part.stop - part.start
        write(raw, f"{prefix}-images-idx3-ubyte", struct.pack(">4i", 2051, count, 28, 28) + images[part].tobytes())
        write(raw, f"{prefix}-labels-idx1-ubyte", struct.pack(">2i", 2049, count) + labels[part].tobytes())
    data = load(Data(name="fashion_mnist", image_size=56, root=str(tmp_path), download=False), ignore)
    assert torch.equal(data.train.labels_N, data.train.ids_N % 10)
    test = data.test.images.take(torch.tensor([4]))[0].numpy()
    assert np.abs(test - bilinear(images[44].astype(float), 56)).max() <= 0.501


def test_stl10_pretrains_on_its_unlabelled_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files hold planes column by column, labels from 1."""
    folder = tmp_path / "stl10_binary"
    counts = {"train": 40, "test": 20, "unlabeled": 30}
    images = {name: RANDOM.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8) for name, n in counts.items()}
    stored = {f"{k}_X.bin": write(folder, f"{k}_X.bin", v.transpose(0, 1, 3, 2).tobytes()) for k, v in images.items()}
    for name in ("train", "test"):
        labels = (np.arange(counts[name]) % 10 + 1).astype(np.uint8)
        stored[f"{name}_y.bin"] = write(folder, f"{name}_y.bin", labels.tobytes())
    write(folder, "class_names.txt", b"\n".join(f"c{i}".encode() for i in range(10)))
    train = [stored[name] for name in ("train_X.bin", "train_y.bin", "unlabeled_X.bin")]
    monkeypatch.setattr(datasets.STL10, "train_list", train)
    monkeypatch.setattr(datasets.STL10, "test_list", [stored["test_X.bin"], stored["test_y.bin"]])
    data = load(Data(name="stl10", image_size=96, root=str(tmp_path), download=False), ignore)
    assert torch.equal(data.pretrain.images.take(torch.arange(30)), torch.from_numpy(images["unlabeled"]))
    assert data.pretrain.labels_N.tolist() == [-1] * 30
    assert torch.equal(data.train.images.take(torch.arange(36)), torch.from_numpy(images["train"])[data.train.ids_N])
    assert torch.equal(data.train.labels_N, data.train.ids_N % 10)
    assert torch.equal(data.test.labels_N, torch.arange(20) % 10)


def test_imagenette_must_be_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "imagenette2-160"
    for split, count in (("train", 3), ("val", 2)):
        for wnid in ("n01440764", "n02102040"):
            for i in range(count):
                buffer = io.BytesIO()
                picture(i).save(buffer, "JPEG")
                write(folder / split / wnid, f"{wnid}_{i}.JPEG", buffer.getvalue())
    data = Data(name="imagenette", image_size=32, root=str(tmp_path), download=False)
    with pytest.raises(
        ValueError, match=r"holds 2 classes, 6 training and 4 validation images instead of 10, 9,469 and"
    ):
        load(data, ignore)
    facts = sets()["imagenette"]
    whole = replace(facts, train=6, test=4, classes=2)
    monkeypatch.setitem(sets(), "imagenette", whole)
    assert load(data, ignore).test.labels_N.tolist() == [0, 0, 1, 1]


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real download from a loopback port on which nothing listens."""
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(datasets.STL10, "url", "http://127.0.0.1:9/stl10_binary.tar.gz")
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    for name, torchvision_name in (("cifar10", "CIFAR10"), ("fashion_mnist", "FashionMNIST"), ("stl10", "STL10")):
        said: list[str] = []
        with pytest.raises(ValueError, match="cannot be downloaded") as raised:
            load(Data(name=name), said.append)
        message = str(raised.value)
        assert message.startswith(f"data.name = {name}: cannot be downloaded (")
        assert message.endswith(
            f"); run python -c \"import torchvision; torchvision.datasets.{torchvision_name}('{tmp_path}', "
            'download=True)" on a machine with a network and copy the folder here, or set data.root'
        )
        assert "\n" not in message
        assert len(said) == 1
        assert said[0].startswith(f"downloading {name} to {tmp_path}")
