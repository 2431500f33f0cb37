"""Decoding: every kind of picture against torchvision or a closed form; broken files by name, up to a limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference
from PIL import Image

from moco.config import Data
from moco.data import load
from moco.data.decode import Unreadable, centre_square, open_rgb, to_tensor
from moco.data.splits import Streamed, require_memory
from moco.data.loader import resized_crop
from tests.support.data_files import break_file, picture, write_folder


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (64, 64), (91, 33), (33, 257)])
def test_evaluation_view_is_torchvisions(width: int, height: int, tmp_path: Path) -> None:
    image = picture(3, width, height)
    image.save(tmp_path / "a.png")
    expected = reference.pil_to_tensor(reference.center_crop(reference.resize(image, 73), 64))
    assert torch.equal(Streamed((str(tmp_path / "a.png"),), 64).take(torch.tensor([0]))[0], expected)
    assert torch.equal(to_tensor(centre_square(image, 73, 64)), expected)


def test_training_crop_is_torchvisions() -> None:
    image = picture(4, 200, 150)
    for top, left, height, width in ((0, 0, 150, 200), (17, 33, 90, 61), (149, 199, 1, 1), (5, 100, 32, 32)):
        expected = reference.pil_to_tensor(reference.resized_crop(image, top, left, height, width, [32, 32]))
        assert torch.equal(resized_crop(image, [top, left, height, width], 32), expected)


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(open_rgb(str(path)))


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    colour = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    grey, alpha = colour[..., 0], colour[..., 1]

    Image.fromarray(grey).save(path)
    assert (pixels(path) == grey[..., None]).all()

    rgba = np.concatenate([colour, alpha[..., None]], axis=2)
    Image.fromarray(rgba).save(path)
    over_white = colour * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)
    assert np.abs(pixels(path) - over_white).max() <= 1

    Image.fromarray(np.stack([grey, alpha], axis=2)).save(path)
    assert np.abs(pixels(path) - (grey / 255 * alpha + 255 - alpha)[..., None]).max() <= 1

    deep = np.random.default_rng(1).integers(0, 65_536, (6, 5)).astype(np.uint16)
    Image.fromarray(deep).save(path)
    assert (pixels(path) == (deep >> 8)[..., None]).all()
    Image.fromarray(deep).save(tmp_path / "a.tif")
    assert (pixels(tmp_path / "a.tif") == (deep >> 8)[..., None]).all()

    palette = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5), mode="P")
    palette.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    palette.save(path, transparency=3)
    expected = np.stack([np.arange(30), 255 - np.arange(30), np.full(30, 7)], axis=1).reshape(6, 5, 3)
    expected[0, 3] = 255
    assert (pixels(path) == expected).all()

    Image.fromarray(grey > 127).save(path)
    assert (pixels(path) == np.where(grey > 127, 255, 0)[..., None]).all()

    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held sideways: show it turned clockwise
    Image.fromarray(colour).save(path, exif=turned)
    assert (pixels(path) == np.rot90(colour, -1)).all()

    Image.fromarray(colour).convert("CMYK").save(tmp_path / "a.tiff")
    assert np.abs(pixels(tmp_path / "a.tiff") - colour.astype(int)).max() <= 1


def test_unknown_range_is_unreadable_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(path)
    with pytest.raises(Unreadable) as raised:
        open_rgb(str(path))
    assert str(raised.value) == f"{path}: floating-point pixels have no known range; save it as 8 or 16 bit"


@pytest.mark.parametrize("stream", [False, True])
def test_broken_files_are_named_and_left_out(stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the same folder before anything broke, less those images; no other image changes its split."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = write_folder(tmp_path / "set", per_class=12)
    data = Data(name="folder", root=str(root), image_size=16, validation_share=0.25, stream=stream)
    whole, words = load(data, print), list[str]()
    broken = {"train/cat/003.png": "truncated", "train/dog/004.jpg": "empty", "train/dog/006.jpg": "truncated"}
    broken["val/cat/001.png"] = "text"
    for file, how in broken.items():
        break_file(root / file, how)
    for _ in range(2):  # a second run must say and do the same, checked anew or remembered
        words.clear()
        found = load(data, words.append)
        assert len(words) == len(broken) + 1
        assert words[-1] == "images: read 32, passed over 0, skipped 4, 0 of one colour"
        for file in broken:
            assert sum(word.startswith(f"skipped, cannot be read: {root}/{file}: ") for word in words) == 1
        lost_train, lost_test = {3, 12 + 4, 12 + 6}, {1}
        for name, lost in (("train", lost_train), ("validation", lost_train), ("test", lost_test)):
            before, after = getattr(whole, name), getattr(found, name)
            stays = [i for i, image in enumerate(before.ids_N.tolist()) if image not in lost]
            assert after.ids_N.tolist() == before.ids_N[stays].tolist()
            assert after.labels_N.tolist() == before.labels_N[stays].tolist()
            if not stream:
                assert torch.equal(after.images.take(torch.arange(len(after))), before.images.take(torch.tensor(stays)))
    assert sorted(whole.train.ids_N.tolist() + whole.validation.ids_N.tolist()) == list(range(24))


def test_a_file_that_cannot_be_reached_is_named_but_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root, words = write_folder(tmp_path / "set"), list[str]()
    (root / "train" / "cat" / "link.jpg").symlink_to(root / "nothing.jpg")
    load(Data(name="folder", root=str(root), stream=True), words.append)
    assert len(words) == 2
    assert words[0].startswith(f"skipped, cannot be read: {root}/train/cat/link.jpg: [Errno 2] No such file")
    assert not list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.parametrize("stream", [False, True])
def test_more_broken_files_than_allowed_are_refused(
    stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = write_folder(tmp_path / "set")
    for file in ("train/cat/001.png", "val/dog/000.jpg"):
        break_file(root / file, "empty")
    with pytest.raises(ValueError, match="2 image files cannot be read") as raised:
        load(Data(name="folder", root=str(root), max_corrupt=1, stream=stream), print)
    message = str(raised.value)
    assert message.startswith(
        "data.max_corrupt = 1: 2 image files cannot be read; repair or remove them, or raise data.max_corrupt: "
        f"{root}/train/cat/001.png: cannot identify image file"
    )
    assert f"; {root}/val/dog/000.jpg: cannot identify" in message
    assert "\n" not in message


def test_a_class_that_is_broken_altogether_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, per_class=4)
    for file in (root / "train" / "cat").iterdir():
        break_file(file, "empty")
    with pytest.raises(ValueError, match="no readable image left to train on in class cat"):
        load(Data(name="folder", root=str(root)), print)


def test_images_larger_than_the_memory_are_refused() -> None:
    with pytest.raises(ValueError, match=r"100,000,000,000 images need 286102\.3 GiB .* set data\.stream=true"):
        require_memory(100_000_000_000, 32)


def test_labels_and_pixels_belong_together(tmp_path: Path) -> None:
    """Each image of one flat colour that tells its class and number, but for a corner that is cut off."""
    for folder, blue in (("train", 0), ("val", 255)):
        for label, name in enumerate(("a", "b", "c")):
            (tmp_path / folder / name / "deeper").mkdir(parents=True)
            for i in range(8):
                place = tmp_path / folder / name / ("deeper" if i > 5 else ".") / f"{i}.png"
                image = Image.new("RGB", (20, 30), (80 * label, 8 * label + i, blue))
                image.putpixel((0, 0), (200, 200, 200))
                image.save(place)
    data = load(Data(name="folder", root=str(tmp_path), image_size=8), print)
    assert data.classes == ("a", "b", "c")
    for split, blue in ((data.train, 0), (data.validation, 0), (data.test, 255)):
        images = split.images.take(torch.arange(len(split)))
        assert (images[:, 0, 0, 0] == 80 * split.labels_N).all()
        assert (images[:, 1, 0, 0] == split.ids_N).all()
        assert (images[:, 2] == blue).all()
