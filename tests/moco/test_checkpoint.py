"""Files of weights carry a digest. Oracles: every bit of a file, every length it can be cut to, zip's own reader, torch's."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from moco import checkpoint

STATE = {"run_id": "r", "step": 3, "model": {"w": torch.arange(6.0)}}


def test_the_digest_is_that_of_what_torch_wrote_and_every_reader_of_zip_reads_the_file(tmp_path: Path) -> None:
    checkpoint.save(STATE, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        mark, _, digest = archive.comment.decode().rpartition(" ")
        assert archive.testzip() is None
    assert mark == "moco sha256"
    assert digest == hashlib.sha256(content[: -len(archive.comment) - 2] + b"\0\0").hexdigest()
    for mmap in (False, True):
        assert torch.equal(
            torch.load(tmp_path / "a.pt", weights_only=True, mmap=mmap)["model"]["w"], STATE["model"]["w"]
        )


def test_no_bit_can_flip_and_no_byte_be_lost_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(STATE, path)
    content = path.read_bytes()
    flips = (content[:n] + bytes([content[n] ^ 1 << n % 8]) + content[n + 1 :] for n in range(len(content)))
    cuts = (content[:n] for n in (*range(0, len(content), 50), *range(len(content) - 100, len(content))))
    for wrong in (*flips, *cuts):
        path.write_bytes(wrong)
        with pytest.raises(checkpoint.Damaged) as error:
            checkpoint.load(path)
        assert "\n" not in str(error.value)
        assert "weights_only" not in str(error.value)
    path.write_bytes(content)
    assert checkpoint.load(path)["step"] == 3


def test_a_file_of_ours_without_a_digest_is_read_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(STATE, tmp_path / "old.pt")
    torch.save({"state_dict": {}}, tmp_path / "theirs.pt")
    assert checkpoint.load(tmp_path / "old.pt")["step"] == 3
    checkpoint.load(tmp_path / "theirs.pt")
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}/old.pt: written before files had a digest: whether it is damaged could not be checked"
    )


def test_what_a_killed_writer_left_is_removed_by_the_next_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    script = "; ".join(
        (
            "import fcntl, os, sys, time",
            "file = open(sys.argv[1], 'xb')",
            "fcntl.flock(file, fcntl.LOCK_SH)",
            "print(flush=True)",
            "time.sleep(600)",
        )
    )
    names = [".a.pt.0123456789ab", ".a.pt.4711"]
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / name)], stdout=subprocess.PIPE) for name in names
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    try:
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        checkpoint.save(STATE, tmp_path / "a.pt")
        assert sorted(os.listdir(tmp_path)) == [".a.pt.4711", "a.pt"]
    finally:
        writers[1].kill()
        for writer in writers:
            writer.communicate()
    checkpoint.save(STATE, tmp_path / "a.pt")
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("numbers", [1_000, 100_000])
def test_a_full_disk_is_the_systems_error_and_the_old_file_stays(tmp_path: Path, numbers: int) -> None:
    """As a limit on the size of files, which gives the same error at the same call."""
    checkpoint.save(STATE, tmp_path / "a.pt")
    before, limit = (tmp_path / "a.pt").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*a\.pt'"):
            checkpoint.save({"w": torch.zeros(numbers)}, tmp_path / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / "a.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pt"]
