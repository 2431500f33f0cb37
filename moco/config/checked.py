"""How a field says what it may be, and that it does not change the result."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def cosmetic(default: Any) -> Any:
    """A field that does not change the result: left out of the run's identity."""
    return field(default=default, metadata={"cosmetic": True})


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_share(name: str, value: float) -> None:
    require(0.0 <= value <= 1.0, f"{name} = {value}: must be between 0 and 1")
