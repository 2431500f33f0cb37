"""Names of hardware, as drivers and kernels give them and attempts record them: which are GPUs."""

from __future__ import annotations

import re
from typing import Final

# nvidia-smi's names begin with NVIDIA, but those of older drivers do not: `Tesla V100-SXM2-16GB`, `A100-SXM4-80GB`,
# `TITAN Xp`. A bare A100 counts at the beginning only: processors are named `Cortex-A72` and `AMD A10-7850K`.
_GPU: Final = re.compile(
    r"\b(NVIDIA|Tesla|GeForce|Quadro|TITAN|RTX|GTX|GPU|Instinct)\b|^(AMD )?Radeon\b|^[ABHLTV]\d{1,3}[A-Z]?\b",
    re.IGNORECASE,
)


def is_gpu(hardware: str) -> bool:
    """Whether the name is that of a GPU: `NVIDIA H100 80GB HBM3` is, `AMD EPYC 7763 64-Core Processor` is not."""
    return bool(_GPU.search(hardware))
