"""How much memory a piece of work takes above what the process had before it."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def extra_bytes(work: Callable[[], object], device: str) -> int | None:
    """Peak minus start while `work` runs: resident memory on a CPU, torch's allocations on a GPU. None if nobody says."""
    gc.collect()
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        CLEAR.write_text(RESET_PEAK)
        start = _kibibytes("VmRSS")
        work()
        return 1024 * (_kibibytes("VmHWM") - start)
    except OSError:  # not Linux, or a kernel that does not let us
        return None


def _kibibytes(name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{STATUS} does not say {name}")
    return int(found[1])
