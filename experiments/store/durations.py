"""A duration as text."""

from __future__ import annotations


def in_words(seconds: float, *, measured: bool = False) -> str:
    """Seconds as `45 s`, `12 min` or `3.5 h`. With `measured`, one more digit below 10: `4.2 s`, `7.5 min`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if measured and seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.1f} min" if measured and minutes < 10 else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"
