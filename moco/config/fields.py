"""Marks of a config's fields: `cosmetic` ones do not change the result, `added` ones are missing in old configs.

`require` is how every group checks its ranges.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any


def cosmetic(default: Any) -> Any:
    """A field that does not change the result: left out of the run's identity."""
    return field(default=default, metadata={"cosmetic": True})


def added(default: Any, *, before: Any) -> Any:
    """A field that configs written by earlier versions lack. `before`: the value that means what those versions computed.

    A config that has this value keeps the identity it had without the field, and a config without the field is read with
    this value, whatever the default is today. `before` never changes afterwards: identities of finished runs hang on it.
    """
    return field(default=default, metadata={"before": before})


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_share(name: str, value: float) -> None:
    require(0.0 <= value <= 1.0, f"{name} = {value}: must be between 0 and 1")
