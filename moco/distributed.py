"""Several processes, one run: each has its share of every batch, and all have the same weights, negatives and numbers.

Without a process group everything here is the identity, so the code of one process is the code of many. Communication of
decisions and of CPU tensors goes through gloo, of GPU tensors through NCCL.

P processes, B rows of one process, M = P B rows of the whole batch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from moco.errors import PeerFailed, PeerLost

GATHERING = timedelta(minutes=10)  # in which all processes must have come
# With one that lives but does not answer: longer than any readout that others wait for. One that dies is noticed at once.
PATIENCE = timedelta(minutes=60)
REQUIRED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


_stores: list[Any] = []  # of the group, while there is one: words that outlive the process that left them


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def local_device(name: str) -> str:
    """`auto` and `cuda` mean this process' own GPU: the LOCAL_RANK-th of those it sees."""
    if name not in ("auto", "cuda") or "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return name
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


@contextmanager
def group(device: str) -> Iterator[None]:
    """Inside, this process is one of the WORLD_SIZE that torchrun's variables speak of; alone, nothing happens.

    Raises ValueError for variables that are missing, PeerLost when the others do not come.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if missing := [name for name in REQUIRED if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE = {os.environ['WORLD_SIZE']} without {', '.join(missing)}: start it with torchrun"
        )
    with noticing_lost_peers():
        _join(local_device(device))
    yield
    if _stores:
        abandon()
        dist.destroy_process_group()


def abandon() -> None:
    """After an error: leave without dissolving the group, which could wait forever for processes that are gone."""
    _stores.clear()


def _join(device: str) -> None:
    store, own, count = next(rendezvous("env://", timeout=GATHERING))
    _stores.append(store)
    dist.init_process_group(
        _backend(device, store, own, count), store=store, rank=own, world_size=count, timeout=PATIENCE
    )


def _backend(device: str, store: Any, own: int, count: int) -> str:
    """gloo for the CPU; for GPUs NCCL, or gloo where processes share one, which NCCL refuses."""
    if not device.startswith("cuda"):
        return "gloo"
    torch.cuda.set_device(torch.device(device))
    store.set(f"gpu/{own}", str(torch.cuda.get_device_properties(device).uuid))
    apart = len({store.get(f"gpu/{rank}") for rank in range(count)}) == count
    return f"cpu:gloo,cuda:{'nccl' if apart else 'gloo'}"


@contextmanager
def noticing_lost_peers() -> Iterator[None]:
    """Turn the transport's error on a lost connection into PeerFailed, with the other's own error if it left one, or
    PeerLost; either in one line."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        for number in range(size()):
            if failure := _failure_of(number):
                raise PeerFailed(f"rank {number}: {failure}") from error
        reason = re.sub(r"^\[[^]]*\] ", "", str(error).strip().splitlines()[0]).partition(". ")[0]  # not where in gloo
        raise PeerLost(f"another process of the run is gone or does not answer ({reason})") from error


def report_failure(text: str) -> None:
    """Leave this process' error for the others, which will lose the connection."""
    with suppress(RuntimeError):
        for store in _stores:
            store.set(f"word/{rank()}", text)


def _failure_of(number: int) -> str | None:
    with suppress(RuntimeError):
        for store in _stores:
            if store.check([f"word/{number}"]):
                return str(store.get(f"word/{number}").decode())
    return None


def own_rows(rows: int) -> slice:
    """This process' share of the rows of a whole batch: the rank-th of P equal, contiguous parts."""
    assert rows % size() == 0, (rows, size())
    share = rows // size()
    return slice(rank() * share, (rank() + 1) * share)


def own(rows_M: Tensor) -> Tensor:
    return rows_M if size() == 1 else rows_M[own_rows(len(rows_M))]


class _Gather(torch.autograd.Function):
    """Rows of all processes; a row's gradient is the sum of what all processes want of it."""

    @staticmethod
    def forward(ctx: Any, rows_B: Tensor) -> Tensor:
        return _gathered(rows_B)

    @staticmethod
    def backward(ctx: Any, gradient_M: Tensor) -> Tensor:
        gradient_M = gradient_M.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient_M)
        return gradient_M[own_rows(len(gradient_M))]


def _gathered(rows_B: Tensor) -> Tensor:
    rows_M = rows_B.new_empty(size() * len(rows_B), *rows_B.shape[1:])
    dist.all_gather_into_tensor(rows_M, rows_B.detach().contiguous())
    return rows_M


def gather(rows_B: Tensor) -> Tensor:
    """(M, ...) of the (B, ...) of each process, in the order of ranks; with its gradient where `rows_B` has one."""
    if size() == 1:
        return rows_B
    if torch.is_grad_enabled() and rows_B.requires_grad:
        gathered: Tensor = _Gather.apply(rows_B)
        return gathered
    return _gathered(rows_B)


@torch.no_grad()
def average_(tensors: Sequence[Tensor]) -> None:
    """Each of these floats becomes its mean over the processes, in place, in one message per type and device."""
    if size() == 1:
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in kinds.values():
        flat = torch.cat([tensor.detach().flatten() for tensor in alike])
        dist.all_reduce(flat)
        flat /= size()
        for tensor, mean in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def averaged(values: Sequence[Tensor]) -> list[Tensor]:
    if size() == 1:
        return list(values)
    copies = [value.detach().clone() for value in values]
    average_(copies)
    return copies


@torch.no_grad()
def add_up_(tensor: Tensor) -> Tensor:
    """The sum over the processes, in place: puts together what each has filled in, zeros elsewhere."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def highest(number: int) -> int:
    """The largest value of all processes. It goes through gloo, so it never waits for a GPU."""
    if size() == 1:
        return number
    numbers = torch.tensor(number)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


@torch.no_grad()
def begin_alike(module: nn.Module) -> None:
    """Copy the parameters and buffers of rank 0 to all: different processors round initial values differently."""
    if size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor, src=0)


def agree(flag: bool) -> bool:
    """Whether the condition holds in any process."""
    return bool(highest(int(flag)))


def from_first(value: Any) -> Any:
    """Rank 0's plain values, in all processes."""
    values = [value]
    if size() > 1:
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]
