"""Odd image files: each is read as its maker meant it, or refused in one line that names the remedy.

Oracle: the levels that were written, and arithmetic on them in numpy.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, features
from PIL.Image import registered_extensions

from moco.data.decode import MOST_PIXELS, Unreadable, centre_square, open_picture, open_rgb, to_tensor
from moco.data.files import counted
from moco.data.folder import EXTENSIONS
from tests.support.data_files import picture
from tests.support.odd_images import (
    BLACK_IS_ZERO,
    FLOAT,
    GREY,
    GREY_ALPHA,
    RGB,
    RGBA,
    SIGNED,
    TIFF_RGB,
    WHITE_IS_ZERO,
    png16,
    tiff,
    tiff12,
    turned,
)

Pixels = NDArray[np.uint8]
DRAW = np.random.default_rng(0)
SHAPE = (6, 5)


def levels(top: int, *channels: int) -> NDArray[Any]:
    """Random levels from 0 to `top`, both among them."""
    drawn = DRAW.integers(0, top + 1, (*SHAPE, *channels))
    drawn.flat[0], drawn.flat[-1] = 0, top
    return drawn.astype(np.uint16)


DEEP, DEEP_RGB, DEEP_RGBA = levels(65_535), levels(65_535, 3), levels(65_535, 4)
TWELVE, TWELVE_RGB, EIGHT = levels(4_095), levels(4_095, 3), levels(255)
EVEN = levels(4_095)[:, :4]
COLOUR: Pixels = DRAW.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def grey(values: NDArray[Any]) -> Pixels:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def over_white(colour: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    share = alpha[..., None] / 255
    return np.asarray(colour * share + 255 * (1 - share))


def saved(image: Image.Image, **options: Any) -> Callable[[Path], None]:
    return lambda path: image.save(path, **options)


def palette(**options: Any) -> Callable[[Path], None]:
    image = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(SHAPE), mode="P")
    image.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    return saved(image, **options)


PALETTE = np.stack([np.arange(30), 255 - np.arange(30), np.full(30, 7)], axis=1).reshape(*SHAPE, 3)
CLEAR = np.concatenate([COLOUR, np.zeros((*SHAPE, 1), np.uint8)], axis=2)
HALF = np.concatenate([COLOUR, COLOUR[..., :1]], axis=2)


def frames(path: Path) -> None:
    one = Image.fromarray(COLOUR)
    one.save(path, save_all=True, append_images=[Image.new("RGB", one.size, "red")])


def as_jpeg_named(path: Path) -> None:
    """A PNG under another ending: known by its first bytes."""
    Image.fromarray(COLOUR).save(path, "PNG")


def cmyk() -> Image.Image:
    return Image.fromarray(np.concatenate([COLOUR, np.zeros((*SHAPE, 1), np.uint8)], axis=2), mode="CMYK")


# name -> (ending, what writes it, bits that the user says, the levels it must show, how far off they may be)
READ: dict[str, tuple[str, Callable[[Path], None], int | None, NDArray[Any], int]] = {
    "grey of 1 bit": (".png", saved(Image.fromarray(DEEP > 30_000)), None, grey(np.where(DEEP > 30_000, 255, 0)), 0),
    "grey of 8 bits": (".png", saved(Image.fromarray(EIGHT.astype(np.uint8))), None, grey(EIGHT), 0),
    "PNG, grey of 16 bits": (".png", lambda p: png16(p, DEEP, GREY), None, grey(DEEP >> 8), 0),
    "PNG, colour of 16 bits": (".png", lambda p: png16(p, DEEP_RGB, RGB), None, DEEP_RGB >> 8, 0),
    "PNG, 12-bit grey in 16": (".png", lambda p: png16(p, TWELVE, GREY), 12, grey(TWELVE >> 4), 0),
    "PNG, 8-bit grey in 16": (".png", lambda p: png16(p, EIGHT, GREY), 8, grey(EIGHT), 0),
    "PNG, 12-bit colour in 16": (".png", lambda p: png16(p, TWELVE_RGB, RGB), 12, TWELVE_RGB >> 4, 0),
    "PNG, dark on purpose": (".png", lambda p: png16(p, TWELVE, GREY), 16, grey(TWELVE >> 8), 0),
    "PNG, colour and alpha of 16 bits": (
        ".png",
        lambda p: png16(p, DEEP_RGBA, RGBA),
        None,
        over_white(DEEP_RGBA[..., :3] >> 8, DEEP_RGBA[..., 3] >> 8),
        1,
    ),
    "PNG, grey and alpha of 16 bits": (
        ".png",
        lambda p: png16(p, np.stack([DEEP, np.full(SHAPE, 65_535)], axis=2), GREY_ALPHA),
        None,
        grey(DEEP >> 8),
        0,
    ),
    "PNG, 12-bit grey and alpha in 16": (
        ".png",
        lambda p: png16(p, np.stack([TWELVE, np.full(SHAPE, 65_535)], axis=2), GREY_ALPHA),
        12,
        grey(TWELVE >> 4),
        0,
    ),
    "TIFF of 12 bits says so itself": (".tif", lambda p: tiff12(p, EVEN), None, grey(EVEN >> 4), 0),
    "TIFF, grey of 16 bits": (".tif", lambda p: tiff(p, DEEP, BLACK_IS_ZERO), None, grey(DEEP >> 8), 0),
    "TIFF, the other byte order": (".tif", lambda p: tiff(p, DEEP, BLACK_IS_ZERO, order=">"), None, grey(DEEP >> 8), 0),
    "TIFF, colour of 16 bits": (".tif", lambda p: tiff(p, DEEP_RGB, TIFF_RGB), None, DEEP_RGB >> 8, 0),
    "TIFF, colour, the other byte order": (
        ".tiff",
        lambda p: tiff(p, DEEP_RGB, TIFF_RGB, order=">"),
        None,
        DEEP_RGB >> 8,
        0,
    ),
    "TIFF, 12-bit colour in 16": (".tif", lambda p: tiff(p, TWELVE_RGB, TIFF_RGB), 12, TWELVE_RGB >> 4, 0),
    "TIFF, 8 bits, white is 0": (
        ".tif",
        lambda p: tiff(p, EIGHT.astype(np.uint8), WHITE_IS_ZERO),
        None,
        grey(255 - EIGHT),
        0,
    ),
    "TIFF, 16 bits, white is 0": (
        ".tif",
        lambda p: tiff(p, DEEP, WHITE_IS_ZERO),
        None,
        grey((65_535 - DEEP.astype(int)) >> 8),
        0,
    ),
    "TIFF, 12 bits, white is 0": (
        ".tif",
        lambda p: tiff(p, TWELVE, WHITE_IS_ZERO),
        12,
        grey((4_095 - TWELVE.astype(int)) >> 4),
        0,
    ),
    "TIFF, signed 16 bits without a sign": (
        ".tif",
        lambda p: tiff(p, (DEEP >> 1).astype(np.int16), BLACK_IS_ZERO, SIGNED),
        15,
        grey(DEEP >> 8),
        0,
    ),
    "TIFF of 32 bits that need 16": (
        ".tif",
        lambda p: tiff(p, DEEP.astype(np.uint32), BLACK_IS_ZERO),
        None,
        grey(DEEP >> 8),
        0,
    ),
    "PGM of 12 bits says so itself": (
        ".pgm",
        lambda p: p.write_bytes(b"P5 5 6 4095\n" + TWELVE.astype(">u2").tobytes()) and None,
        None,
        grey(np.round(TWELVE / 4_095 * 65_535).astype(int) >> 8),
        0,
    ),
    "alpha over white": (".png", saved(Image.fromarray(HALF)), None, over_white(COLOUR, HALF[..., 3]), 1),
    "alpha of 0 everywhere": (".png", saved(Image.fromarray(CLEAR)), None, COLOUR, 0),
    "alpha of 0 everywhere, TIFF": (".tif", saved(Image.fromarray(CLEAR)), None, COLOUR, 0),
    "palette": (".png", palette(), None, PALETTE, 0),
    "palette, one colour transparent": (
        ".png",
        palette(transparency=3),
        None,
        np.where(np.arange(30).reshape(*SHAPE, 1) == 3, 255, PALETTE),
        0,
    ),
    "palette, all transparent": (".png", palette(transparency=bytes(256)), None, PALETTE, 0),
    "GIF of two frames": (".gif", frames, None, COLOUR, 40),
    "TIFF of two pages": (".tif", frames, None, COLOUR, 0),
    "APNG of two frames": (".png", frames, None, COLOUR, 0),
    "CMYK": (".tif", saved(cmyk()), None, 255 - COLOUR.astype(int), 1),
    "turned by EXIF": (
        ".png",
        saved(Image.fromarray(COLOUR), exif=turned(Image.fromarray(COLOUR), 6)),
        None,
        np.rot90(COLOUR, -1),
        0,
    ),
    "mirrored by EXIF": (
        ".tif",
        saved(Image.fromarray(COLOUR), exif=turned(Image.fromarray(COLOUR), 2)),
        None,
        COLOUR[:, ::-1],
        0,
    ),
    "PNG named .jpg": (".jpg", as_jpeg_named, None, COLOUR, 0),
    "ending in capitals": (".PNG", saved(Image.fromarray(COLOUR), format="PNG"), None, COLOUR, 0),
    "QOI": (".qoi", saved(Image.fromarray(COLOUR)), None, COLOUR, 0),
    "TGA": (".tga", saved(Image.fromarray(COLOUR)), None, COLOUR, 0),
    "PCX": (".pcx", saved(Image.fromarray(COLOUR)), None, COLOUR, 0),
    "SGI": (".sgi", saved(Image.fromarray(COLOUR)), None, COLOUR, 0),
    "DIB": (".dib", saved(Image.fromarray(COLOUR)), None, COLOUR, 0),
    "PBM": (".pbm", lambda p: p.write_bytes(b"P1 2 2 1 0 0 1") and None, None, grey(np.array([[0, 255], [255, 0]])), 0),
    "WebP without loss": (".webp", saved(Image.fromarray(COLOUR), lossless=True), None, COLOUR, 0),
    "one pixel": (".png", saved(Image.new("RGB", (1, 1), (9, 8, 7))), None, np.array([[[9, 8, 7]]]), 0),
}


@pytest.mark.parametrize("name", READ)
def test_it_is_read_with_its_right_levels(name: str, tmp_path: Path) -> None:
    ending, write, bits, expected, off = READ[name]
    path = tmp_path / f"a{ending}"
    write(path)
    assert ending.lower() in EXTENSIONS
    for shown in (open_rgb(str(path), bits), open_picture(str(path), bits=bits).image):
        found = np.asarray(shown).astype(int)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= off


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".jp2", ".j2k", ".avif"])
def test_other_endings_of_photographs(ending: str, tmp_path: Path) -> None:
    """Against what was written: JPEG loses a few levels, JPEG 2000 none as it is written here."""
    if ending == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image = picture(1, 64, 48)
    image.save(tmp_path / f"a{ending}", **({"irreversible": False} if ending.startswith(".j2") else {"quality": 95}))
    found = np.asarray(open_rgb(str(tmp_path / f"a{ending}"))).astype(int)
    assert np.abs(found - np.asarray(image)).max() <= (0 if ending in (".jp2", ".j2k") else 24)
    assert ending in EXTENSIONS


def test_every_listed_ending_is_one_that_pillow_reads() -> None:
    Image.init()
    assert set(EXTENSIONS) <= {ending for ending, form in registered_extensions().items() if form in Image.OPEN}


def zeros_from(share: float, **options: Any) -> Callable[[Path], None]:
    """The right size, but nothing written from there on: a copy that was cut off on some file systems."""

    def write(path: Path) -> None:
        picture(2, 200, 160).save(path, **options)
        whole = path.read_bytes()
        kept = int(len(whole) * share)
        path.write_bytes(whole[:kept] + bytes(len(whole) - kept))

    return write


def with_thumbnail(path: Path) -> None:
    """A JPEG whose EXIF holds a whole small JPEG, end marker and all, and whose own end is zeros."""
    small = path.with_suffix(".small")
    picture(2, 16, 12).save(small, "JPEG")
    exif = Image.Exif()
    exif[0x927C] = small.read_bytes()
    picture(2, 200, 160).save(path, exif=exif)
    whole = path.read_bytes()
    path.write_bytes(whole[: -len(whole) // 3] + bytes(len(whole) // 3))


REFUSED: dict[str, tuple[str, Callable[[Path], None], int | None, str]] = {
    "TIFF of floats": (
        ".tif",
        lambda p: tiff(p, DRAW.random(SHAPE, dtype=np.float32), BLACK_IS_ZERO, FLOAT),
        None,
        "floating-point pixels have no known range; save it as 8 or 16 bit",
    ),
    "TIFF, signed 16 bits": (
        ".tif",
        lambda p: tiff(p, np.array([[-300, 5], [7, 900]], np.int16), BLACK_IS_ZERO, SIGNED),
        None,
        "pixels from -300 to 900: grey must be 8 or 16 bit",
    ),
    "TIFF, signed 8 bits": (
        ".tif",
        lambda p: tiff(p, np.array([[-3, 5], [7, 90]], np.int8), BLACK_IS_ZERO, SIGNED),
        None,
        "signed levels of 8 bits have no known black; save it as unsigned 8 or 16 bit",
    ),
    "TIFF of 32 bits that need them": (
        ".tif",
        lambda p: tiff(p, DEEP.astype(np.uint32) * 9, BLACK_IS_ZERO),
        None,
        "pixels from 0 to 589815: grey must be 8 or 16 bit",
    ),
    "more levels than were said": (
        ".png",
        lambda p: png16(p, DEEP, GREY),
        12,
        "pixels up to 65,535: data.bits = 12 holds no more than 4,095",
    ),
    "more levels of colour than were said": (
        ".png",
        lambda p: png16(p, DEEP_RGB, RGB),
        10,
        "pixels up to 65,535: data.bits = 10 holds no more than 1,023",
    ),
    "PNG that ends in zeros": (
        ".png",
        zeros_from(0.5),
        None,
        "its pixels do not have their checksum: the file is damaged",
    ),
    "JPEG that ends in zeros": (
        ".jpg",
        zeros_from(0.5, quality=95),
        None,
        "the end of the file was never written: zeros, and no end marker",
    ),
    "JPEG with a thumbnail that ends in zeros": (
        ".jpg",
        with_thumbnail,
        None,
        "the end of the file was never written: zeros, and no end marker",
    ),
    "empty file": (".jpg", Path.touch, None, "cannot identify image file"),
    "text": (".png", lambda p: p.write_text("<html>404</html>") and None, None, "cannot identify image file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    ending, write, bits, words = REFUSED[name]
    path = tmp_path / f"a{ending}"
    write(path)
    with pytest.raises(Unreadable) as raised:
        open_picture(str(path), bits=bits)
    assert str(raised.value).startswith(f"{path}: {words}")
    assert "\n" not in str(raised.value)


def test_at_least_forty_oddities_stand_here() -> None:
    assert len(READ) + len(REFUSED) >= 40


def test_a_whole_jpeg_may_end_as_it_likes(tmp_path: Path) -> None:
    """Zeros after the end marker are padding of some cameras; bytes without them are those of others."""
    for number, tail in enumerate((b"", bytes(64), b"left over")):
        path = tmp_path / f"{number}.jpg"
        picture(2, 64, 48).save(path)
        path.write_bytes(path.read_bytes() + tail)
        assert np.asarray(open_picture(str(path)).image).std() > 10


def test_too_many_pixels_are_refused_before_any_is_decoded(tmp_path: Path) -> None:
    path, side = tmp_path / "a.pgm", 20_000
    path.write_bytes(b"P5 %d %d 255\n" % (side, side))
    assert side * side > MOST_PIXELS
    with pytest.raises(Unreadable, match=r"pixels"):
        open_picture(str(path))


@pytest.mark.parametrize("tall", [False, True])
def test_a_very_long_picture_costs_little_and_shows_its_centre(tall: bool, tmp_path: Path) -> None:
    """400,000 x 1: a ramp of grey over the middle. Oracle: the whole ramp resized in one dimension by Pillow."""
    long, side = 400_000, 64
    ramp = np.zeros(long, np.uint8)
    middle = slice(long // 2 - 32, long // 2 + 32)
    ramp[middle] = np.arange(64) * 4
    pixels = ramp[:, None] if tall else ramp[None, :]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = np.asarray(centre_square(open_rgb(str(tmp_path / "a.png")), side, side)).astype(int)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kB"
    found = found[..., 0].T if tall else found[..., 0]
    assert (found == found[0]).all()
    # Enlarged 64 times, the central 64 pixels are half a pixel of the file to both sides of its centre.
    x = (np.arange(side) + 0.5) / side - 0.5 + 31.5
    assert np.abs(found[0] - 4 * x).max() <= 2


def test_long_pictures_are_what_the_whole_resize_shows(tmp_path: Path) -> None:
    for width, height, short, size in ((700, 40, 64, 64), (40, 700, 64, 64), (20, 1001, 37, 32), (4000, 3, 64, 64)):
        image = Image.fromarray(DRAW.integers(0, 256, (height, width, 3), dtype=np.uint8))
        new = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        left, top = round((new[0] - size) / 2), round((new[1] - size) / 2)
        whole = image.resize(new, Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
        off = to_tensor(whole).int() - to_tensor(centre_square(image, short, size)).int()
        assert off.abs().max() <= 1


def test_what_was_met_is_counted(tmp_path: Path) -> None:
    """Two deep files, one of them dim; one clear; one of one colour; one that cannot be read."""
    from moco.data.files import Facts

    png16(tmp_path / "deep.png", DEEP, GREY)
    png16(tmp_path / "dim.png", TWELVE_RGB, RGB)
    Image.fromarray(CLEAR).save(tmp_path / "clear.png")
    Image.new("RGB", (4, 4), "navy").save(tmp_path / "navy.png")
    found: list[Facts | Unreadable] = [Unreadable("gone.png", "because")]
    found += [Facts.of(open_picture(str(path))) for path in sorted(tmp_path.glob("*.png"))]
    seen = counted(found, None)
    assert (seen.read, seen.skipped, seen.one_colour, seen.deep, seen.dim, seen.clear) == (4, 1, 1, 2, 1, 1)
    assert seen.deepest == 65_535
    assert counted(found[3:4], None).deepest == 4_095
    assert seen.line() == (
        "images: read 4, passed over 0, skipped 1, 1 of one colour, deepest value 65,535 of 65,535 in 2 files of 16 bits, "
        "1 of them under 16,384, 1 with an alpha of 0 everywhere, shown without it"
    )


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Image.fromarray(COLOUR).save(path)
    assert torch.equal(to_tensor(open_rgb(path)), torch.from_numpy(COLOUR.copy()).permute(2, 0, 1))
    Path(path).write_text("no image")
    with pytest.raises(Unreadable) as raised:
        open_rgb(path)
    assert str(raised.value).startswith(rf"{tmp_path}/caf\xe9.png: cannot identify image file")
    str(raised.value).encode("ascii")
