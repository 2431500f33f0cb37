"""Many small files at a time: on a shared disk each of them costs a round trip, and they need not wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AT_A_TIME = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work(item)` of each, in order. Raises the first error, also Ctrl-C, when those that have begun have ended."""
    pool = ThreadPoolExecutor(AT_A_TIME)
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
