"""Names, counts and messages that are known before anything is read; no torch on the way."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moco.config import Data
from moco.data import load, resolve, training_images
from moco.data.holdout import held_out, hold_out, quotas
from tests.support.data_files import write_folder


def ignore(line: str) -> None:
    pass


def test_planning_imports_neither_torch_nor_numpy_nor_pillow(tmp_path: Path) -> None:
    write_folder(tmp_path)
    program = (
        "import sys; from moco.config import Data; from moco.data.catalog import resolve, training_images;"
        f"training_images(resolve(Data(name='folder', root={str(tmp_path)!r}))); training_images(resolve(Data()));"
        "print([m for m in ('torch', 'torchvision', 'numpy', 'PIL', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("share", [0.1, 0.033, 0.5])
@pytest.mark.parametrize("name", ["digits", "shapes", "folder"])
def test_training_images_is_what_the_loader_gives(name: str, share: float, tmp_path: Path) -> None:
    root = str(write_folder(tmp_path, per_class=17)) if name == "folder" else None
    data = Data(name=name, root=root, validation_share=share, image_size=16)
    loaded = load(data, ignore)
    assert training_images(data) == training_images(resolve(data)) == len(loaded.pretrain) == len(loaded.train)


def test_published_counts() -> None:
    """The sets' own papers and pages; validation is a tenth of train, STL-10 pre-trains on its unlabelled images."""
    published = {
        "cifar10": 45_000,
        "cifar100": 45_000,
        "fashion_mnist": 54_000,
        "stl10": 100_000,
        "imagenet": 1_153_050,
    }
    assert {name: training_images(Data(name=name)) for name in published} == published


def one_line(data: Data) -> str:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
        resolve(data)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_unknown_set_suggests_the_nearest() -> None:
    assert one_line(Data(name="cifar_10")) == (
        "data.name = cifar_10: no such image set; did you mean cifar10? Known: digits, digits4, shapes, cifar10, cifar100, "
        "stl10, fashion_mnist, imagenette, imagenet, folder"
    )


def test_arrays_cannot_be_streamed() -> None:
    assert one_line(Data(name="digits", stream=True)) == (
        "data.stream = True: digits is always held in memory; only folder, imagenette, imagenet can be streamed"
    )


def test_missing_sets_say_what_to_provide(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert one_line(Data(name="cifar10", root=root, download=False)) == (
        f'data.name = cifar10: {root}/cifar-10-batches-py is not there; run python -c "import torchvision; '
        f"torchvision.datasets.CIFAR10('{root}', download=True)\" on a machine with a network and copy the folder "
        "here, or set data.root"
    )
    assert one_line(Data(name="imagenette", image_size=224, root=root, download=False)) == (
        f'data.name = imagenette: {root}/imagenette2-320 is not there; run python -c "import torchvision; '
        f"torchvision.datasets.Imagenette('{root}', size='320px', download=True)\" on a machine with a network and "
        "copy the folder here, or set data.root"
    )
    assert one_line(Data(name="imagenet", root=root)) == (
        f"data.name = imagenet: {root}/train is not there; put train/<class>/*.JPEG and val/<class>/*.JPEG, or the "
        f"three ILSVRC2012 archives from image-net.org into {root}, or set data.root"
    )


def test_folder_mistakes_are_one_line_each(tmp_path: Path) -> None:
    root = tmp_path / "set"
    data = Data(name="folder", root=str(root))
    layout = "it must hold train/<class>/* and val/<class>/*"
    assert one_line(Data(name="folder")).startswith("data.root is not set: data.name = folder needs data.root=DIR")
    assert one_line(data) == f"data.root = {root}: no such folder; {layout}"
    (root / "train").mkdir(parents=True)
    assert one_line(data) == f"{root}/train: no class folders in it; put the images into train/<class>/"
    (root / "train" / "cat").mkdir()
    (root / "train" / "cat" / "notes.txt").touch()
    kinds = (
        ".apng .avif .bmp .dib .gif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .pbm .pcx .pgm .png .pnm .ppm .qoi "
        ".ras .sgi .tga .tif .tiff .webp"
    )
    assert one_line(data) == f"{root}/train: no image files in it; known are {kinds}"
    write_folder(tmp_path / "other")
    (tmp_path / "other" / "train").rename(tmp_path / "train")
    (root / "train" / "cat" / "notes.txt").unlink()
    (root / "train" / "cat").rmdir()
    (root / "train").rmdir()
    (tmp_path / "train").rename(root / "train")
    assert one_line(data) == f"data.root = {root}: no folder val/ in it; {layout}"
    (tmp_path / "other" / "val").rename(root / "val")
    (root / "val" / "cow").mkdir()
    assert one_line(data) == f"{root}/val: no image files in class cow; add images or remove the folder"
    (root / "val" / "cow" / "1.PNG").touch()
    assert one_line(data) == f"{root}/val: cow not in train/; both must have the same class folders"
    (root / "val" / "cow" / "1.PNG").unlink()
    (root / "val" / "cow").rmdir()
    assert resolve(data).root == str(root)


def test_fingerprint_follows_the_files_and_is_held_to(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a")
    data = Data(name="folder", root=str(root))
    resolved = resolve(data)
    assert re.fullmatch("[0-9a-f]{32}", resolved.fingerprint)
    write_folder(tmp_path / "b")
    assert resolve(Data(name="folder", root=str(tmp_path / "b"))).fingerprint == resolved.fingerprint
    (root / "train" / ".DS_Store.png").touch()
    assert resolve(data).fingerprint == resolved.fingerprint
    (root / "train" / "cat" / "new.png").write_bytes(b"x")
    changed = resolve(data).fingerprint
    assert changed != resolved.fingerprint
    with pytest.raises(ValueError, match=f"its files changed since this run was planned .*now {changed}"):
        load(resolved, ignore)


def test_too_few_images_to_hold_any_out(tmp_path: Path) -> None:
    write_folder(tmp_path, per_class=2)
    for name in ("cat", "dog"):
        (tmp_path / "train" / name / "001.png").unlink()
    assert one_line(Data(name="folder", root=str(tmp_path))) == (
        "data.validation_share: 1 of 2 training images cannot be held out while each of 2 classes keeps one to train "
        "on; add images or lower data.validation_share"
    )


def test_quotas_are_the_nearest_whole_shares() -> None:
    """Oracle: of all allocations that keep one image per class, the least squared distance to the exact shares."""
    from itertools import product

    for counts, total in (([7, 5, 3], 4), ([1, 9, 2], 5), ([4, 4, 4], 5), ([1, 1, 6], 3)):
        exact = [total * c / sum(counts) for c in counts]
        allowed = [a for a in product(*(range(c) for c in counts)) if sum(a) == total]
        best = min(sum((x - y) ** 2 for x, y in zip(a, exact, strict=True)) for a in allowed)
        found = quotas(counts, total)
        assert sum(found) == total
        assert sum((x - y) ** 2 for x, y in zip(found, exact, strict=True)) == pytest.approx(best)


def test_hold_out_is_a_stratified_partition_that_only_its_key_decides() -> None:
    labels_N = torch.randint(0, 7, (1000,), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    kept, held = hold_out(labels_N, held_out(1000, 0.13), "set", "validation")
    torch.manual_seed(2)
    again = hold_out(labels_N, held_out(1000, 0.13), "set", "validation")
    assert torch.equal(kept, again[0])
    assert torch.equal(held, again[1])
    assert sorted(kept.tolist() + held.tolist()) == list(range(1000))
    for label in range(7):
        members = sum(1 for x in labels_N.tolist() if x == label)
        taken = sum(1 for i in held.tolist() if labels_N[i] == label)
        assert abs(taken - 0.13 * members) < 1
    assert not torch.equal(held, hold_out(labels_N, held_out(1000, 0.13), "set", "test")[1])
