"""Several processes, one run: each has its share of every batch, and all have the same weights, negatives and numbers.

Without a process group everything here is the identity, so the code of one process is the code of many. Communication of
decisions and of CPU tensors goes through gloo, of GPU tensors through NCCL.

P processes, B rows of one process, M = P B rows of the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(minutes=10)  # with a process that lives but does not answer; one that died is noticed at once
REQUIRED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class PeerLost(RuntimeError):
    """Another process of the run is gone, or does not answer."""


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def local_device(name: str, variables: Mapping[str, str] = os.environ) -> str:
    """`auto` and `cuda` mean this process' own GPU: the LOCAL_RANK-th of those it sees."""
    if name not in ("auto", "cuda") or "LOCAL_RANK" not in variables or not torch.cuda.is_available():
        return name
    return f"cuda:{int(variables['LOCAL_RANK']) % torch.cuda.device_count()}"


@contextmanager
def group(device: str, variables: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Inside, this process is one of the WORLD_SIZE that torchrun's variables speak of; alone, nothing happens.

    Raises ValueError for variables that are missing, PeerLost when the others do not come.
    """
    if int(variables.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    _join(device, variables)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _join(device: str, variables: Mapping[str, str]) -> None:
    missing = [name for name in REQUIRED if name not in variables]
    if missing:
        raise ValueError(f"WORLD_SIZE = {variables['WORLD_SIZE']} without {', '.join(missing)}: start it with torchrun")
    local = local_device(device, variables)
    gpu = local.startswith("cuda") or (local == "auto" and torch.cuda.is_available())
    if gpu:
        torch.cuda.set_device(torch.device(local))
    with noticing_lost_peers():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            init_method=f"tcp://{_bracketed(variables['MASTER_ADDR'])}:{variables['MASTER_PORT']}",
            rank=int(variables["RANK"]),
            world_size=int(variables["WORLD_SIZE"]),
            timeout=PATIENCE,
        )


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@contextmanager
def noticing_lost_peers() -> Iterator[None]:
    """What the transport says of a lost connection, as PeerLost in one line."""
    try:
        yield
    except dist.DistBackendError as error:
        raise _lost(error) from error
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise _lost(error) from error
        raise


def _lost(error: RuntimeError) -> PeerLost:
    return PeerLost(f"another process of the run is gone or does not answer ({str(error).strip().splitlines()[0]})")


def own_rows(rows: int) -> slice:
    """This process' share of the rows of a whole batch: the rank-th of P equal, contiguous parts."""
    assert rows % size() == 0, (rows, size())
    share = rows // size()
    return slice(rank() * share, (rank() + 1) * share)


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


@torch.no_grad()
def add_up_(tensor: Tensor) -> Tensor:
    """The sum over the processes, in place: puts together what each has filled in, zeros elsewhere."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def highest(number: int) -> int:
    """The largest of what the processes bring; a decision, so it never waits for a GPU."""
    if size() == 1:
        return number
    numbers = torch.tensor(number)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def agree(flag: bool) -> bool:
    """Does any process say so?"""
    return bool(highest(int(flag)))


def from_first(value: Any) -> Any:
    """What rank 0 brings: plain values, the same on all processes afterwards."""
    values = [value]
    if size() > 1:
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]
