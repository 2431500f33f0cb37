"""Batches made while the step before them runs: on a thread of their own, and on a GPU on a stream of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
POLL_SECONDS = 0.1  # between two checks whether anybody still wants the next item
# Held while a thread makes an item, and by whoever changes for a while what all threads share (torch's stance on compiling).
MAKING = threading.RLock()


@dataclass(frozen=True)
class _Made(Generic[Item]):
    item: Item
    event: torch.cuda.Event | None  # on a GPU: the item is complete after it


def ahead(
    items: Generator[Item, None, None], depth: int, device: torch.device, tensors: Callable[[Item], Iterable[Tensor]]
) -> Iterator[Item]:
    """The same items in the same order, up to `depth` of them made before they are asked for.

    `tensors` gives those of an item that lie on the device: on a GPU they are made on another stream, and the caller's waits
    for them. What `items` raises is raised here, in its place. Closing this iterator ends the thread and closes `items`.
    """
    results: queue.Queue[_Made[Item] | BaseException | None] = queue.Queue(depth)
    unwanted = threading.Event()
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(device))  # the data set may still be on its way there

    def make() -> _Made[Item] | None:
        elsewhere: AbstractContextManager[object] = nullcontext() if stream is None else torch.cuda.stream(stream)
        with elsewhere:
            item = next(items, None)
            return None if item is None else _Made(item, None if stream is None else stream.record_event())

    def keep_making() -> None:
        result: _Made[Item] | BaseException | None
        while not unwanted.is_set():
            if not MAKING.acquire(timeout=POLL_SECONDS):
                continue
            try:
                result = make()
            except BaseException as error:
                result = error
            finally:
                MAKING.release()
            offer(result)
            if not isinstance(result, _Made):
                return

    def offer(result: _Made[Item] | BaseException | None) -> None:
        while not unwanted.is_set():
            try:
                return results.put(result, timeout=POLL_SECONDS)
            except queue.Full:
                pass

    thread = threading.Thread(target=keep_making, name="batches ahead", daemon=True)
    try:
        # The first in the caller's own thread, which has nothing else to do yet: it compiles, and starts processes.
        result: _Made[Item] | BaseException | None = make()
        thread.start()
        while isinstance(result, _Made):
            if result.event is not None:
                here = torch.cuda.current_stream(device)
                here.wait_event(result.event)
                for tensor in tensors(result.item):
                    tensor.record_stream(here)  # its memory is written anew only when this stream is done with it
            yield result.item
            result = results.get()
        if result is not None:
            raise result
    finally:
        unwanted.set()
        if thread.ident is not None:
            thread.join()
        items.close()
