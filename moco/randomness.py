"""Randomness as a function of its purpose and a counter, never of what ran before.

The data order, the augmentation, the shuffles and the initial weights depend on (seed, purpose, counter) alone. So arms of
one seed are paired, and a resumed run needs no generator state.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(*key: int | str) -> int:
    """63 bits of the sha256 of the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def generator(device: str | torch.device, *key: int | str) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed_of(*key))


def key_order(seed: int, step: int, batch: int, direction: int = 0) -> torch.Tensor:
    """The permutation of ShuffleBN (v1, section 3.3): place i of the permuted batch has row `key_order[i]` of the batch.

    On the CPU, drawn there: the same on every device, and known to whoever reads the images.
    """
    key = ("shuffle", step) if direction == 0 else ("shuffle", step, direction)
    return torch.randperm(batch, generator=generator("cpu", seed, *key))
