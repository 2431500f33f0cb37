"""`unmoved`: a check around every readout that no tensor of the backbone has changed by a bit.

A probe that trains the backbone, or lets BatchNorm's running statistics drift, reports another network than the one that
was pre-trained. The authors' `main_lincls.py` compares all weights with the checkpoint after the first epoch
(`sanity_check`); a checksum does the same without a second copy of the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

_AS_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, odd, as a signed integer: consecutive multiples are spread evenly


class BackboneMovedError(RuntimeError):
    """A tensor of a frozen network changed. The message names the tensors."""


@contextmanager
def unmoved(module: nn.Module) -> Iterator[None]:
    """Raises `BackboneMovedError` at the end of the block if any parameter or buffer of `module` changed by a bit."""
    before = fingerprint(module)
    yield
    check_unmoved(module, before)


def check_unmoved(module: nn.Module, before: dict[str, int]) -> None:
    """`before` is an earlier `fingerprint(module)`. Errors: `BackboneMovedError` with the names of what moved."""
    now = fingerprint(module)
    moved = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if moved:
        shown = ", ".join(moved[:5]) + (f" and {len(moved) - 5} more" if len(moved) > 5 else "")
        raise BackboneMovedError(
            f"{len(moved)} of {len(before)} tensors of the frozen backbone changed during a readout: {shown}; "
            "the readout must run in eval mode, without gradients, and must not share weights with what it trains"
        )


@torch.no_grad()
def fingerprint(module: nn.Module) -> dict[str, int]:
    """A 64-bit checksum of each parameter and buffer, non-persistent ones too. One wait for the device in all."""
    tensors = dict(chain(module.named_parameters(), module.named_buffers()))
    sums = [checksum(tensor) for tensor in tensors.values()]
    return dict(zip(tensors, torch.stack(sums).tolist(), strict=True)) if sums else {}


def checksum(tensor: Tensor) -> Tensor:
    """Sum of the elements' mixed bits, each times an odd number of its place, modulo 2^64; a 0-dim int64.

    Mixing is one-to-one and an odd factor has an inverse, so a change of one element always changes the sum; unrelated
    changes cancel with probability about 2^-64. Works on bits: -0.0 is not 0.0, and a NaN is equal to itself.
    """
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    bits_N = real.detach().contiguous().view(_AS_INTEGER[real.element_size()]).flatten().to(torch.int64)
    mixed_N = (bits_N + 1) * _GOLDEN
    mixed_N = (
        mixed_N ^ (mixed_N >> 29)
    ) * _GOLDEN  # a right shift xored in is one-to-one: high bits reach the low ones
    places_N = torch.arange(bits_N.numel(), device=bits_N.device) * _GOLDEN | 1
    return (mixed_N * places_N).sum()
