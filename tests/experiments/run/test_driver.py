"""The driver's version. Oracle: both spellings of the file that NVIDIA's kernel modules write."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.run import machine

SPELLINGS = {
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC\nGCC version: 12": "535.104.05",
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs)\n": "550.54.15",
    "something else\n": None,
}


@pytest.mark.parametrize(("text", "version"), SPELLINGS.items())
def test_the_driver_is_read_from_its_own_words(monkeypatch: pytest.MonkeyPatch, text: str, version: str | None) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert machine.gpu_driver.__wrapped__() == version


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gone(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", gone)
    assert machine.gpu_driver.__wrapped__() is None
