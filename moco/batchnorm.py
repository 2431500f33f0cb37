"""BatchNorm over parts of a batch: what several GPUs do to MoCo, on one device (v1, section 3.3: shuffling BN).

And the other way round, over a batch whose parts lie on several processes. N rows, C channels, P processes;
G parts of n rows on this one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco import distributed


def norm_of_parts(splits: int) -> Callable[[int], nn.Module]:
    """Makes the BatchNorm2d for C channels that normalises `splits` equal, contiguous parts of the whole batch apart.

    1 is the whole batch together, wherever its rows are. Over P processes each holds splits / P of the parts (that it
    is a whole number is checked with the config: `moco.config.check_processes`).
    """
    processes = distributed.size()
    if splits == 1:
        return nn.BatchNorm2d if processes == 1 else SyncBatchNorm
    assert splits % processes == 0, (splits, processes)
    here = splits // processes
    return nn.BatchNorm2d if here == 1 else partial(SplitBatchNorm2d, splits=here)


class OfParts(nn.Module):
    """A network whose rows change places before it, and go back after it, so that every G-th row is a part of BatchNorm:
    `interleaved` G, 1 if neighbours are."""

    interleaved = 1


def normalise_batch_at_hand(module: nn.Module) -> None:
    """From now on all BatchNorms in `module` normalise what each call gets, neither parts of it nor more than it."""
    for norm in module.modules():
        if isinstance(norm, SplitBatchNorm2d):
            norm.splits = 1
        elif isinstance(norm, OfParts):
            norm.interleaved = 1
        elif isinstance(norm, SyncBatchNorm):
            norm.apart = True


def norm_of_whole(features: int, **options: Any) -> nn.Module:
    """BatchNorm1d over the whole batch, wherever its rows are; options as torch's."""
    kind = nn.BatchNorm1d if distributed.size() == 1 else SyncBatchNorm
    norm: nn.Module = kind(features, **options)
    return norm


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm with the statistics of the rows of all processes, of any number of dimensions. Each holds as many rows.

    On a GPU it is torch's `SyncBatchNorm`, which has no other path; and DistributedDataParallel refuses that class on a CPU,
    so this one is not of its family.
    """

    process_group, apart = None, False
    _check_input_dim = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, rows_NC: Tensor) -> Tensor:
        if not self.training or self.apart or distributed.size() == 1:
            return super().forward(rows_NC)
        if rows_NC.is_cuda:
            return nn.SyncBatchNorm.forward(cast(nn.SyncBatchNorm, self), rows_NC)
        wide_NC = rows_NC.to(torch.promote_types(rows_NC.dtype, torch.float32))
        # Of each process' mean and variance, as Chan et al. combine them: sums of squares would cancel.
        variance_C, mean_C = torch.var_mean(wide_NC, [0, *range(2, rows_NC.dim())], correction=0)
        means_PC, variances_PC = distributed.gather(torch.stack([mean_C, variance_C])[None]).unbind(1)
        mean_C = means_PC.mean(0)
        variance_C = (variances_PC + (means_PC - mean_C).square()).mean(0)
        self._move_running(mean_C, variance_C, distributed.size() * rows_NC.numel() // rows_NC.shape[1])
        scale_C = (variance_C + self.eps).rsqrt() * (1.0 if self.weight is None else self.weight)
        shift_C = -mean_C * scale_C + (0.0 if self.bias is None else self.bias)
        shape = (1, -1, *[1] * (rows_NC.dim() - 2))
        return (wide_NC * scale_C.view(shape) + shift_C.view(shape)).to(rows_NC.dtype)

    @torch.no_grad()
    def _move_running(self, mean_C: Tensor, variance_C: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((variance_C * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def local_statistics(module: nn.Module) -> list[Tensor]:
    """Running statistics of norms that saw this process' rows only: their mean over the processes is that of one process
    with all parts, for they move by means."""
    norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    apart = [norm for norm in norms if not isinstance(norm, SyncBatchNorm)]
    return [moved for norm in apart for moved in (norm.running_mean, norm.running_var) if moved is not None]


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Normalises `splits` equal, contiguous parts of the batch by their own statistics, as that many GPUs would.

    The running statistics move by the mean over the parts. In eval mode it is plain BatchNorm. The memory format passes
    through unchanged.
    """

    def __init__(self, features: int, splits: int) -> None:
        super().__init__(features)
        self.splits = splits

    def forward(self, images_NCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images_NCHW)
        if len(images_NCHW) % self.splits:
            raise ValueError(
                f"batch of {len(images_NCHW)} images does not divide into {self.splits} parts of BatchNorm"
            )
        normalise = way_of(images_NCHW)
        normalised_NCHW, mean_C, variance_C = normalise(images_NCHW, self.weight, self.bias, self.splits, self.eps)
        self._move_running(mean_C, variance_C)
        return normalised_NCHW

    @torch.no_grad()
    def _move_running(self, mean_C: Tensor, variance_C: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


# Images, weight, bias, G, eps -> the images normalised, and the means over the parts of their means and unbiased variances.
Way = Callable[[Tensor, Tensor, Tensor, int, float], tuple[Tensor, Tensor, Tensor]]


def way_of(images_NCHW: Tensor) -> Way:
    """What is used on a device; both give the same to rounding.

    On a CPU the loop, compiled or not: its parts stay in the caches, and what the compiler makes of the sums over three
    dimensions takes four times as long. On an H100 a ResNet-18 step in bf16 does 7,500 images/s with the loop, 10,000
    together, 43,000 together in CUDA graphs. In eager float32 the loop is 7 % faster there and takes a third less memory.
    """
    return together if images_NCHW.is_cuda else one_by_one


def one_by_one(
    images_NCHW: Tensor, weight_C: Tensor, bias_C: Tensor, splits: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A part a call. A GPU waits for so many launches, and its compiler for eight times the code."""
    # Momentum 1 leaves each part's own mean and unbiased variance in these buffers.
    means_GC = [torch.zeros_like(weight_C) for _ in range(splits)]
    variances_GC = [torch.zeros_like(weight_C) for _ in range(splits)]
    parts = [
        F.batch_norm(part, mean, variance, weight_C, bias_C, True, 1.0, eps)
        for part, mean, variance in zip(images_NCHW.chunk(splits), means_GC, variances_GC, strict=True)
    ]
    return torch.cat(parts), torch.stack(means_GC).mean(0), torch.stack(variances_GC).mean(0)


def together(
    images_NCHW: Tensor, weight_C: Tensor, bias_C: Tensor, splits: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The parts as a dimension, in plain arithmetic, which a compiler fuses into two passes. At least in float32."""
    images_GnCHW = images_NCHW.unflatten(0, (splits, -1))
    wide_GnCHW = images_GnCHW.to(torch.promote_types(images_NCHW.dtype, torch.float32))
    variance_G1C11, mean_G1C11 = torch.var_mean(wide_GnCHW, (1, 3, 4), correction=0, keepdim=True)
    scale_G1C11 = (variance_G1C11 + eps).rsqrt() * weight_C[:, None, None]
    normalised_GnCHW = (wide_GnCHW - mean_G1C11) * scale_G1C11 + bias_C[:, None, None]
    count = images_NCHW.numel() // (splits * len(weight_C))
    mean_C, variance_C = (parts.detach().mean(0).flatten() for parts in (mean_G1C11, variance_G1C11))
    return normalised_GnCHW.to(images_NCHW.dtype).flatten(0, 1), mean_C, variance_C * (count / (count - 1))


MOMENTUM = 0.1  # of the running statistics, torch's default


def share_statistics(module: nn.Module, part: int, parts: int) -> None:
    """Before the `part`-th of `parts` passes of one step: after the last, the running statistics have moved once, by the mean.

    Passes move r <- (1 - m_i) r + m_i s_i; m_i = (m / parts) / (1 - m + m (i + 1) / parts) gives each s_i the weight
    m / parts in the end and leaves 1 - m of the old.
    """
    share = MOMENTUM / parts
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum = share / (1.0 - MOMENTUM + share * (part + 1))


@torch.no_grad()
def measure_statistics(encoder: nn.Module, batches_NCHW: list[Tensor]) -> None:
    """Replace the running statistics of all BatchNorms by the mean over these batches.

    A random encoder with statistics (0, 1) would be a weaker baseline than it deserves.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    was_training = encoder.training
    encoder.train()
    for count, images_NCHW in enumerate(batches_NCHW, start=1):
        for norm in norms:
            norm.momentum = 1.0 / count  # a running mean over the batches so far
        encoder(images_NCHW)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.train(was_training)
