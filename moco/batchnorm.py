"""BatchNorm over parts of a batch: what several GPUs do to MoCo, on one device (v1, section 3.3: shuffling BN)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Normalises `splits` equal, contiguous parts of the batch by their own statistics, as that many GPUs would.

    The running statistics move by the mean over the parts. In eval mode it is plain BatchNorm. Parts are slices, so any
    memory format passes through unchanged.
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
        # Momentum 1 leaves each part's own mean and unbiased variance in these buffers.
        means_GC, variances_GC = self._part_statistics(), self._part_statistics()
        parts = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
            for part, mean, variance in zip(images_NCHW.chunk(self.splits), means_GC, variances_GC, strict=True)
        ]
        self._move_running(torch.stack(means_GC).mean(0), torch.stack(variances_GC).mean(0))
        return torch.cat(parts)

    def _part_statistics(self) -> list[Tensor]:
        assert self.running_mean is not None
        return [torch.zeros_like(self.running_mean) for _ in range(self.splits)]

    @torch.no_grad()
    def _move_running(self, mean_C: Tensor, variance_C: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


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
