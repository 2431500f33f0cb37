"""Which images are held out, by position. Oracle: tests/fixtures/held_out.json, and a set small enough to write out.

Numbers are compared across runs only because every run holds out the same images. If they have to move, every readout moves:

    python -m tests.test_held_out_positions
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moco.config import Data
from moco.data import load
from moco.data.holdout import hold_out

GOLDEN = Path(__file__).with_name("fixtures") / "held_out.json"
DIGITS = {"digits, 10 %": Data("digits", 8), "digits, 30 %": Data("digits", 8, 0.3), "digits4": Data("digits4", 8)}


def positions(data: Data) -> dict[str, list[int]]:
    loaded = load(data, lambda line: None)
    return {"validation": loaded.validation.ids_N.tolist(), "test": loaded.test.ids_N.tolist()}


LABELS = torch.tensor([0, 1, 2] * 8 + [2, 2, 2])  # eight of 0, eight of 1, eleven of 2


@pytest.mark.parametrize(
    ("total", "key", "expected"),
    [
        (6, ("digits", "validation"), [4, 6, 14, 21, 22, 25]),
        (6, ("digits", "test"), [1, 12, 16, 18, 20, 25]),
        (6, ("shapes", "validation"), [0, 5, 13, 19, 21, 24]),
        (1, ("digits", "validation"), [14]),
    ],
)
def test_held_out_positions_of_a_small_set(total: int, key: tuple[str, str], expected: list[int]) -> None:
    kept, held = hold_out(LABELS, total, *key)
    assert held.tolist() == expected
    assert kept.tolist() == [n for n in range(len(LABELS)) if n not in expected]


@pytest.mark.parametrize("name", DIGITS)
def test_held_out_images_of_the_digits(name: str) -> None:
    assert positions(DIGITS[name]) == json.loads(GOLDEN.read_text())[name]


if __name__ == "__main__":
    rows = {name: {split: json.dumps(p) for split, p in positions(data).items()} for name, data in DIGITS.items()}
    GOLDEN.write_text(json.dumps(rows, indent=1).replace('"[', "[").replace(']"', "]") + "\n")
    print(f"wrote {GOLDEN.name}")
