"""Other people's code that ours is measured against: the only files that import lightly."""

from __future__ import annotations

from importlib.util import find_spec


def check(against: str) -> None:
    """Raises ValueError if that peer is not installed."""
    if against == "lightly" and find_spec("lightly") is None:
        raise ValueError("--against lightly: not installed; pip install 'moco-ablation-suite[bench]' brings it")
