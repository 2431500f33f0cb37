"""Batches made while the step before them runs: a thread, and on a GPU a stream, of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
LOOK = 0.1  # seconds between two looks at whether anybody still wants the next item


@dataclass(frozen=True)
class _Made(Generic[Item]):
    item: Item
    event: torch.cuda.Event | None  # on a GPU: everything that made the item has been asked for before it


@dataclass(frozen=True)
class _Ended:
    error: BaseException | None


def ahead(
    items: Iterable[Item], depth: int, device: torch.device, tensors: Callable[[Item], Iterable[Tensor]]
) -> Iterator[Item]:
    """The same items in the same order, up to `depth` of them made before they are asked for.

    `tensors` gives those of an item that lie on the device: on a GPU they are made on another stream, and the caller's waits
    for them. What `items` raises is raised here, in its place. Closing this iterator ends the thread and closes `items`, from
    within the thread.
    """
    made: queue.Queue[_Made[Item] | _Ended] = queue.Queue(depth)
    unwanted = threading.Event()
    on_gpu = device.type == "cuda"
    stream = torch.cuda.Stream(device) if on_gpu else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(device))  # images and labels may still be on their way

    def offer(result: _Made[Item] | _Ended) -> None:
        while not unwanted.is_set():
            try:
                return made.put(result, timeout=LOOK)
            except queue.Full:
                pass

    def make() -> None:
        try:
            with torch.cuda.stream(stream) if stream is not None else nullcontext():
                for item in items:
                    offer(_Made(item, stream.record_event() if stream is not None else None))
                    if unwanted.is_set():
                        break
                if isinstance(items, Generator):
                    items.close()
        except BaseException as error:  # it is the caller's
            offer(_Ended(error))
        else:
            offer(_Ended(None))

    thread = threading.Thread(target=make, name="batches ahead", daemon=True)
    thread.start()
    try:
        while isinstance(result := made.get(), _Made):
            if result.event is not None:
                current = torch.cuda.current_stream(device)
                current.wait_event(result.event)
                for tensor in tensors(result.item):
                    tensor.record_stream(
                        current
                    )  # or its memory would be written anew before this stream is done with it
            yield result.item
        if result.error is not None:
            raise result.error
    finally:
        unwanted.set()
        thread.join()
