"""Files on bytes against Pillow: the same decoded levels, the same crops but for a level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.benchmarks.suite.augment import crops_of, pictures, to_pil
from moco.data.decode import Unreadable, open_rgb, to_tensor
from moco.data.splits import Streamed
from moco.data.loader import resized_crop
from moco.data.decode import crop_pixels, open_pixels

ORIENTATION = 0x0112  # EXIF: how the camera was held


def files(folder: Path) -> dict[str, Path]:
    """One picture in the ways that files come in."""
    picture = to_pil(pictures(1, 90, 130)[0])
    turned = picture.getexif()
    turned[ORIENTATION] = 6
    made: dict[str, Callable[[Path], None]] = {
        "colour.jpg": lambda path: picture.save(path, quality=90),
        "progressive.jpg": lambda path: picture.save(path, quality=60, progressive=True, subsampling=0),
        "grey.jpg": lambda path: picture.convert("L").save(path),
        "turned.jpg": lambda path: picture.save(path, exif=turned),
        "printed.jpg": lambda path: picture.convert("CMYK").save(path),
        "named.jpg": lambda path: picture.save(path, format="PNG"),
        "clear.png": lambda path: picture.convert("RGBA").save(path),
    }
    for name, save in made.items():
        save(folder / name)
    return {name: folder / name for name in made}


def test_decoded_levels_are_pillows(tmp_path: Path) -> None:
    for name, path in files(tmp_path).items():
        ours, twin = open_pixels(str(path)), open_rgb(str(path))
        assert torch.equal(ours.levels_3HW, to_tensor(twin)), name
        assert ours.size == twin.size, name


def test_a_broken_file_is_told_as_pillow_tells_it(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 nothing that follows is a picture")
    with pytest.raises(Unreadable) as twin:
        open_rgb(str(path))
    with pytest.raises(Unreadable) as ours:
        open_pixels(str(path))
    assert str(ours.value) == str(twin.value)


@pytest.mark.parametrize("box", [[0, 0, 90, 130], [3, 7, 60, 50], [10, 90, 17, 40], [80, 100, 9, 9]])
def test_crops_are_pillows_but_for_a_level(tmp_path: Path, box: list[int]) -> None:
    path = str(files(tmp_path)["colour.jpg"])
    ours, twin = crop_pixels(open_pixels(path), box, 48), resized_crop(open_rgb(path), box, 48)
    apart = (ours.int() - twin.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() <= 0.3


def test_the_loaders_switch(tmp_path: Path) -> None:
    """The same boxes of the same files: a level apart at most, and not the same path through the code."""
    made = Streamed(tuple(map(str, files(tmp_path).values())), 64)
    for quick, exact in zip(crops_of(made, quick=True)(), crops_of(made)(), strict=True):
        apart = (quick.int() - exact.int()).abs()
        assert apart.max() == 1
        assert (apart > 0).float().mean() <= 0.3
