"""What happened to the files of a folder: links, other files, dark and blank images. Oracle: what the test put there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moco.config import Config, Data, ResNet, Train
from moco.data import load, resolve
from moco.data.folder import entries_of, list_folder
from moco.data.seen import Seen
from moco.data.splits import ImageData
from moco.train import IMAGES, train
from tests.support.data_files import picture, write_folder
from tests.support.odd_images import GREY, png16

BOTH = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "set")


def loaded(root: Path, *, stream: bool = False, bits: int | None = None) -> tuple[ImageData, str]:
    """The data, and the line that tells of the files."""
    words: list[str] = []
    data = load(Data(name="folder", root=str(root), image_size=16, stream=stream, bits=bits), words.append)
    (line,) = [word for word in words if word.startswith("images: ")]
    assert data.seen is not None
    assert line == data.seen.line()
    return data, line


@BOTH
def test_files_that_are_no_images_by_name_are_counted(stream: bool, root: Path) -> None:
    """Also those beside the class folders; hidden ones are nobody's."""
    for number in range(3):
        (root / "train" / "cat" / f"{number}.heic").write_bytes(b"?")
    (root / "val" / "notes.txt").touch()
    (root / "train" / "dog" / "LICENSE").touch()
    (root / "train" / "dog" / ".hidden.xcf").touch()
    for _ in range(2):  # decoded, then remembered
        assert loaded(root, stream=stream)[1] == (
            "images: read 30, passed over 5 (.heic 3, .txt 1, no ending 1), skipped 0, 0 of one colour"
        )


def test_linked_folders_belong_to_the_class_and_circles_are_seen(root: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    (pool / "deep").mkdir(parents=True)
    for number in range(4):
        picture(50 + number).save(pool / ("deep" if number > 1 else ".") / f"{number}.png")
    (root / "train" / "cat" / "more").symlink_to(pool)
    (pool / "deep" / "back").symlink_to(pool)
    (root / "train" / "dog" / "up").symlink_to(root / "train")
    listing = list_folder(root)
    assert [f for f in listing.train_files if "/more/" in f] == [
        f"train/cat/more/{name}" for name in ("0.png", "1.png", "deep/2.png", "deep/3.png")
    ]
    assert listing.loops == ("train/cat/more/deep/back", "train/dog/up")
    assert loaded(root)[1].endswith("read 34, passed over 0, skipped 0, 0 of one colour, 2 links in a circle not followed")


def test_a_folder_that_cannot_be_listed_is_refused(root: Path) -> None:
    """Its images would be missing without a word. A file in its place stands for one that may not be read: root may read all."""
    with pytest.raises(ValueError, match=r"train/cat/001.png: cannot be listed \(Not a directory\); its images would be missing"):
        entries_of(root / "train" / "cat" / "001.png")


def test_names_that_are_no_utf_8_are_read_hashed_and_named(root: Path) -> None:
    odd = os.fsdecode(os.fsencode(root / "train" / "cat") + b"/caf\xe9")
    os.mkdir(odd)
    picture(77).save(f"{odd}/\udcff.png")
    Path(f"{odd}/broken\udcfe.png").write_bytes(b"")
    words: list[str] = []
    data = load(resolve(Data(name="folder", root=str(root), image_size=16)), words.append)
    assert data.seen is not None
    assert (data.seen.read, data.seen.skipped) == (31, 1)
    assert words[0].startswith(rf"skipped, cannot be read: {root}/train/cat/caf\xe9/broken\xfe.png: ")
    "\n".join(words).encode("utf-8")


def deep_folder(root: Path, top: int, count: int = 10) -> Path:
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                levels = draw.integers(0, top + 1, (20, 20))
                levels[0, 0] = top
                png16(root / split / name / f"{number}.png", levels.astype(np.uint16), GREY)
    return root


@BOTH
@pytest.mark.parametrize(("top", "fits"), [(255, 8), (4_095, 12), (16_383, 14)])
def test_levels_of_fewer_bits_are_refused_until_somebody_says_so(
    top: int, fits: int, stream: bool, tmp_path: Path
) -> None:
    """Then they fill the range: the brightest pixel is white."""
    root = deep_folder(tmp_path / "set", top)
    with pytest.raises(ValueError, match=rf"^data.bits is not set: of 40 files .* is {top:,}.* --set data.bits={fits} if"):
        loaded(root, stream=stream)
    data, line = loaded(root, stream=stream, bits=fits)
    assert line.endswith(f"deepest value {top:,} of {2**fits - 1:,} in 40 files of 16 bits")
    if not stream:
        brightest = data.train.images.take(torch.arange(len(data.train))).amax()
        assert brightest > 200
    if top == 255:  # all black then
        with pytest.raises(ValueError, match="20 of 20 images are of one colour each"):
            loaded(root, stream=stream, bits=16)
    else:
        assert f"deepest value {top:,} of 65,535" in loaded(root, stream=stream, bits=16)[1]


@BOTH
def test_a_deep_range_that_is_used_is_read(stream: bool, tmp_path: Path) -> None:
    """And a few dark ones among them are counted."""
    root = deep_folder(tmp_path / "set", 65_535)
    png16(root / "train" / "cat" / "0.png", np.arange(400, dtype=np.uint16).reshape(20, 20), GREY)
    line = loaded(root, stream=stream)[1]
    assert line.endswith("deepest value 65,535 of 65,535 in 40 files of 16 bits, 1 of them under 16,384")


@BOTH
def test_most_images_of_one_colour_are_refused(stream: bool, root: Path) -> None:
    """11 of the 20 training images; 10 are counted only."""
    files = sorted((root / "train").rglob("*.*"))
    for number, file in enumerate(files[:10]):
        Image.new("RGB", (30, 20), (number, 0, 0)).save(file)
    assert "10 of one colour" in loaded(root, stream=stream)[1]
    Image.new("RGB", (30, 20), "navy").save(files[10])
    with pytest.raises(ValueError, match=r"/train/: 11 of 20 images are of one colour each"):
        loaded(root, stream=stream)


def test_the_streamed_levels_are_those_that_were_said(tmp_path: Path) -> None:
    """The evaluation view and the training crops, against the same folder saved with 8 bits."""
    from moco.data.loader import Batches

    deep = deep_folder(tmp_path / "deep", 4_095)
    plain = tmp_path / "plain"
    for file in sorted(deep.rglob("*.png")):
        levels = np.asarray(Image.open(file)).astype(int) >> 4
        (plain / file.relative_to(deep)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels.astype(np.uint8)).save(plain / file.relative_to(deep))
    views = []
    for root, bits in ((deep, 12), (plain, None)):
        config = Config(
            data=Data(name="folder", root=str(root), image_size=16, stream=True, bits=bits),
            encoder=ResNet(depth=8, width=8, batch_norm_splits=2),
            train=Train(batch_size=8),
        )
        data = load(config.data, print)
        batch = next(Batches(data.train, config, torch.device("cpu")).epoch(0))
        views.append((data.test.images.take(torch.arange(5)), batch.query_view_B3SS, batch.key_view_B3SS))
    for one, other in zip(*views, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_training_leaves_the_record(root: Path, tmp_path: Path) -> None:
    """In the run directory, with the line; of the digits there is none."""
    (root / "train" / "cat" / "a.heic").touch()
    for data in (resolve(Data(name="folder", root=str(root), image_size=16)), Data(image_size=16)):
        run = tmp_path / data.name
        run.mkdir()
        config = Config(
            data=data,
            encoder=ResNet(depth=8, width=8, batch_norm_splits=2),
            train=Train(epochs=1, batch_size=8, device="cpu"),
        )
        for _ in train(config, run, lambda: True):
            pass
    assert not (tmp_path / "digits" / IMAGES).exists()
    record = json.loads((tmp_path / "folder" / IMAGES).read_text())
    assert record["line"] == "images: read 30, passed over 1 (.heic 1), skipped 0, 0 of one colour"
    assert Seen(**{k: v for k, v in record.items() if k != "line"}).line() == record["line"]
