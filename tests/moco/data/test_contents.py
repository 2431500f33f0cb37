"""A folder is known by its contents. Oracle: hashlib over the files, read anew each time; the folder before it changed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco.config import Data
from moco.data import contents, load, resolve
from moco.data.catalog import known_by_names, last_change_ns, root_of
from moco.data.contents import contents_of
from moco.data.folder import FIRST_EXTENSIONS, list_folder
from tests.support.data_files import break_file, picture, write_folder
from tests.support.stand_in_runs import wait_until


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "set")


def plainly(root: Path) -> str:
    """Slow and independent: every image file below `root`, sorted within train/<class>, then val/<class>."""
    digest = hashlib.sha256()
    for split in ("train", "val"):
        for name in sorted(os.listdir(root / split)):
            files = (root / split / name).rglob("*")
            for file in sorted(str(f.relative_to(root)) for f in files if f.suffix in (".png", ".jpg", ".bmp")):
                digest.update(os.fsencode(file) + b"\0" + hashlib.sha256((root / file).read_bytes()).digest()[:16])
    return digest.hexdigest()[:32]


def age(root: Path) -> None:
    """Wait until the disk's clock has left the files behind, so that what is hashed is remembered."""
    newest = max(f.stat().st_ctime_ns for f in root.rglob("*"))
    while time.time_ns() - newest <= contents.SETTLED_NS:
        time.sleep(0.05)


def fingerprint(root: Path) -> str:
    return resolve(Data(name="folder", root=str(root))).fingerprint


def test_the_fingerprint_is_that_of_names_and_contents(root: Path) -> None:
    assert fingerprint(root) == plainly(root)


def test_a_second_look_reads_no_file_and_says_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`_digest` is the one function that opens a file: it may not be called again."""
    age(root)
    before = fingerprint(root)
    calls: list[str] = []
    monkeypatch.setattr(contents, "_digest", lambda path: calls.append(path) or b"?" * 16)
    assert fingerprint(root) == before == plainly(root)
    assert calls == []


def bitmaps(root: Path) -> Path:
    """Ten uncompressed pictures in each of two classes: all files of one size."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(10):
                picture(hash_of(split, name, i), 24, 24).save(root / split / name / f"{i}.bmp")
    return root


def hash_of(*words: object) -> int:
    return int(hashlib.sha256(repr(words).encode()).hexdigest()[:8], 16)


def shuffle(root: Path) -> None:
    files = sorted((root / "train").rglob("*.bmp"))
    pixels = [file.read_bytes() for file in files]
    random.Random(0).shuffle(pixels)
    for file, content in zip(files, pixels, strict=True):
        file.write_bytes(content)


def noise(root: Path) -> None:
    draw = np.random.default_rng(0)
    for file in sorted((root / "train").rglob("*.bmp")):
        Image.fromarray(draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(file)


def renamed(root: Path) -> None:
    """Two pictures of two classes change places: only their names tell."""
    one, other = root / "train" / "cat" / "3.bmp", root / "train" / "dog" / "5.bmp"
    one.rename(root / "aside")
    other.rename(one)
    (root / "aside").rename(other)


@pytest.mark.parametrize("change", [shuffle, noise, renamed])
def test_other_contents_under_the_same_names_and_sizes_are_other_data(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    """Also after the first contents were remembered, and where the times of the files were put back."""
    root = bitmaps(tmp_path / "set")
    age(root)
    before, old = fingerprint(root), known_by_names(resolve(Data(name="folder", root=str(root)))).fingerprint
    times = {file: file.stat().st_mtime_ns for file in root.rglob("*.bmp")}
    change(root)
    for file, moment in times.items():
        os.utime(file, ns=(moment, moment))
    assert fingerprint(root) == plainly(root) != before
    assert known_by_names(resolve(Data(name="folder", root=str(root)))).fingerprint == old, "names and sizes are alike"


def test_a_run_of_before_is_held_to_names_and_sizes_and_says_so(tmp_path: Path) -> None:
    """Oracle: the sum over names and sizes as it was first written, over the endings that were listed then."""
    root = bitmaps(tmp_path / "set")
    picture(1).save(root / "train" / "cat" / "new.jfif", "JPEG")
    digest = hashlib.sha256()
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            files = sorted(f"{split}/{name}/{f.name}" for f in (root / split / name).iterdir())
            for file in (f for f in files if f.endswith(FIRST_EXTENSIONS)):
                digest.update(f"{file}\0{(root / file).stat().st_size}\0".encode())
    old = Data(name="folder", root=str(root), fingerprint=digest.hexdigest()[:16], image_size=16)
    assert resolve(old) == old
    words: list[str] = []
    assert len(load(old, words.append).test) == 20
    assert words[-1].endswith("known by names and sizes only: contents were not compared")
    shuffle(root)
    assert resolve(old) == old
    (root / "train" / "cat" / "0.bmp").write_bytes(b"shorter")
    with pytest.raises(ValueError, match="names or sizes of its files changed since this run was planned"):
        resolve(old)


def test_the_moment_of_the_last_change_sees_writing_renaming_and_links(tmp_path: Path) -> None:
    root = bitmaps(tmp_path / "set")
    pool = tmp_path / "pool"
    (root / "train" / "dog").rename(pool)
    (root / "train" / "dog").symlink_to(pool)

    def changed() -> int:
        return last_change_ns(Data(name="folder", root=str(root)))

    first = changed()
    assert first < time.time_ns() + 10**9
    for change in (renamed, shuffle, lambda root: relink(root, pool)):
        before = changed()
        while time.time_ns() <= before + 10**7:  # a tick of the disk's clock
            time.sleep(0.01)
        change(root)
        assert changed() > before


def relink(root: Path, pool: Path) -> None:
    (root / "train" / "dog").unlink()
    (root / "train" / "dog").symlink_to(pool)


@pytest.mark.parametrize("stream", [False, True])
def test_a_repaired_file_is_read_again(stream: bool, root: Path) -> None:
    """The repaired file has the name and the size of the broken one."""
    file = root / "train" / "cat" / "001.png"
    whole = file.read_bytes()
    broken = whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    file.write_bytes(broken)
    data = Data(name="folder", root=str(root), image_size=16, stream=stream)
    names = known_by_names(resolve(data))
    for fingerprinted in (data, names):
        file.write_bytes(broken)
        assert load(fingerprinted, print).seen.skipped == 1  # type: ignore[union-attr]
        file.write_bytes(whole)
        assert load(fingerprinted, print).seen.skipped == 0  # type: ignore[union-attr]


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_time_only(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(root)
    right = fingerprint(root)
    (file,) = (tmp_path / "cache" / "moco").iterdir()
    break_file(file, "truncated")
    assert fingerprint(root) == right
    file.write_bytes(b"of another version")
    assert fingerprint(root) == right
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert fingerprint(root) == right


def test_without_a_home_directory_nothing_is_remembered(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    age(root)
    right = fingerprint(root)
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name/cache")  # as ~ is for a user who is in no list of users
    assert fingerprint(root) == right
    assert "no home directory" in caplog.text
    monkeypatch.setenv("MOCO_DATA", "~nobody-of-this-name/data")
    with pytest.raises(ValueError, match=r"^MOCO_DATA = ~nobody-of-this-name/data: no home directory is known for ~; "):
        root_of(Data(name="cifar10"))


def test_of_two_processes_one_hashes_and_the_other_takes_what_it_has_kept(root: Path, tmp_path: Path) -> None:
    """The first is played here: it holds the lock, and remembers another digest of one file than the file has. Oracle: the
    fingerprint with that digest, which no one who reads the files comes to."""
    age(root)
    right, (cache,) = fingerprint(root), (tmp_path / "cache" / "moco").iterdir()
    content = cache.read_bytes()
    other = content[:-1] + bytes([content[-1] ^ 1])
    cache.write_bytes(other)
    expected = fingerprint(root)
    assert expected != right
    cache.unlink()
    lock = cache.with_name(f".{cache.name}.lock")
    with ThreadPoolExecutor(1) as second, lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        answer = second.submit(fingerprint, root)
        inode = f":{lock.stat().st_ino} "
        wait_until(lambda: any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()))
        cache.write_bytes(other)
        fcntl.flock(held, fcntl.LOCK_UN)
        assert answer.result() == expected
    assert list(cache.parent.iterdir()) == [cache]


def test_missing_and_closed_files_count_by_name(root: Path) -> None:
    whole = fingerprint(root)
    (root / "train" / "cat" / "link.jpg").symlink_to(root / "nothing.jpg")
    assert fingerprint(root) != whole
    listing = list_folder(root)
    assert contents_of(root, listing.files) == contents_of(root, listing.files)
