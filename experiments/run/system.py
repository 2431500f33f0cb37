"""Load of the machine while a run trains: processor time and memory of its processes; load, memory and power of its GPU.

The worker calls `SystemMetrics.due` when it writes a record and stores the values with the record, so that they belong to a
step and become void with it at a resume. Sampled every ten seconds, which takes about a millisecond, by psutil and the
driver's library (NVML). Values that cannot be read are absent, never 0.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

SAMPLE_SECONDS = 10.0
FIRST_SECONDS = 1.0  # of a run, until the first sample


class SystemMetrics:
    """`device`: as in the config. A run on the processor does not sample a GPU."""

    def __init__(self, device: str) -> None:
        self._gpu = None if device == "cpu" else Gpu()
        self._sampled_at = time.monotonic()
        self._processor, _ = usage_of_processes(os.getpid())
        self._first = True

    def due(self) -> dict[str, float]:
        """Metric -> value if the last sample is `SAMPLE_SECONDS` old, or the run `FIRST_SECONDS`; else empty."""
        passed = time.monotonic() - self._sampled_at
        if passed < (FIRST_SECONDS if self._first else SAMPLE_SECONDS):
            return {}
        self._first, self._sampled_at = False, time.monotonic()
        seconds, memory = usage_of_processes(os.getpid())
        # The time of a data-loading process that has ended is lost: a negative difference is not a measurement.
        share = {"system/cpu_percent": 100 * (seconds - self._processor) / passed} if seconds >= self._processor else {}
        self._processor = seconds
        values = {**share, "system/memory_mb": memory / 1e6, **(self._gpu.sample() if self._gpu else {})}
        return {key: round(value, 1) for key, value in values.items()}


def usage_of_processes(pid: int) -> tuple[float, float]:
    """(processor seconds so far, resident bytes) of a process and its descendants."""
    seconds = memory = 0.0
    for each in family(pid):
        with suppress(psutil.Error):  # it may end meanwhile
            process = psutil.Process(each)
            times, resident = process.cpu_times(), process.memory_info().rss
            seconds += times.user + times.system
            memory += resident
    return seconds, memory


def resident_mb() -> float:
    """Resident memory of this process and its descendants, MB of 10^6 bytes."""
    return usage_of_processes(os.getpid())[1] / 1e6


def give_back_memory() -> None:
    """Return freed memory to the system and the GPU: allocators keep it, and what is measured next would contain it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def family(pid: int) -> Iterator[int]:
    """Pids of the process and its descendants. Not by psutil, which reads all processes of the machine (3 ms for 140)."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in children.read_text().split():
                yield from family(int(child))


def torch_gpu() -> str | None:
    """`GPU-...`: the device of torch; None while torch uses none. Does not import torch or initialise a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    identity = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
    return None if identity is None else f"GPU-{str(identity).removeprefix('GPU-')}"


class Gpu:
    """The GPU that torch uses in this process, by the driver. Reference: NVML API, section device queries."""

    def __init__(self, identity: Callable[[], str | None] = torch_gpu) -> None:
        """identity: gives the GPU that is in use, `GPU-...`; None while none is."""
        self._identity = identity
        self._handle: object | None = None

    def sample(self) -> dict[str, float]:
        """Load in percent, memory in MB and percent, power in W, as far as the driver has them (a MIG part has no load)."""
        identity = self._identity()
        if identity is None:
            return {}
        import pynvml  # here, because a run on a CPU does not need its 6,000 lines

        values: dict[str, float] = {}
        with suppress(pynvml.NVMLError):  # without the driver's library, too
            if self._handle is None:
                pynvml.nvmlInit()
                # By the id of torch's own device: NVML and CUDA may count the GPUs of a machine in different orders.
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(identity)
            with suppress(pynvml.NVMLError):
                values["system/gpu_percent"] = float(pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
            with suppress(pynvml.NVMLError):
                memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
                values["system/gpu_memory_mb"] = memory.used / 1e6
                values["system/gpu_memory_percent"] = 100 * memory.used / memory.total
            with suppress(pynvml.NVMLError):
                values["system/gpu_power_w"] = pynvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3
        return values
