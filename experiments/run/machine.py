"""Cores and GPUs of this machine, their names, and the slots that share them. Imports no torch but in `usable_gpus`.

make_slots, slots_on_gpus, share_a_gpu      places for runs
cores, visible_gpus                         what may be used
hardware, gpu_driver, cpu_name              names for the records
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

THREADS = "OMP_NUM_THREADS"  # threads of torch in one run


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time: its GPU or share of the cores, as environment variables of the worker."""

    number: int
    environment: dict[str, str]


def make_slots(wanted: int | None, runs: int, *, use_gpus: bool = True) -> list[Slot]:
    """`wanted` slots, by default one per GPU or, without GPUs, one per core; never more than there are runs."""
    gpus = visible_gpus() if use_gpus else []
    count = max(1, min(wanted or len(gpus) or cores(), runs))
    threads = str(_threads(count))
    # One thread for NumPy: training does not use its pool, and threads that exist before a fork make the fork unsafe.
    shared = {THREADS: threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "1"}
    return [Slot(n, shared | ({"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} if gpus else {})) for n in range(count)]


def slots_on_gpus(each: int) -> int | None:
    """The number of slots for `each` runs on each GPU of this machine; None without GPUs."""
    return each * len(visible_gpus()) or None


def share_a_gpu(slots: list[Slot]) -> int:
    """The largest number of slots that share a GPU; 1 if none is used."""
    used = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots if "CUDA_VISIBLE_DEVICES" in slot.environment]
    return max((used.count(gpu) for gpu in used), default=1)


def _threads(slots: int) -> int:
    """A slot's share of the cores, or the number that the user has asked for if that is smaller."""
    share, asked = max(1, cores() // slots), os.environ.get(THREADS, "")
    return min(share, int(asked)) if asked.isdigit() and int(asked) else share


def cores() -> int:
    """Cores this process may use: its affinity mask, limited by the quota of its control group (containers)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, min(allowed, int(quota))) if quota else allowed


def _quota() -> float | None:
    """Cores by the smallest cpu.max of the control groups above this process (v2), or by cpu.cfs_quota_us (v1).

    joblib.cpu_count reads only the top group, where a job of Slurm has no quota, and takes a second to import.
    """
    root = Path("/sys/fs/cgroup")
    quotas = [q for folder in _control_groups(root) if (q := _v2_quota(folder / "cpu.max")) is not None]
    v1 = _numbers(root / "cpu/cpu.cfs_quota_us") + _numbers(root / "cpu/cpu.cfs_period_us")
    if len(v1) == 2 and v1[0] > 0:
        quotas.append(v1[0] / v1[1])
    return min(quotas, default=None)


def _control_groups(root: Path) -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return [root]
    inner = [root / line.partition("::")[2].lstrip("/") for line in lines if line.startswith("0::")]
    return [root, *(folder for path in inner for folder in (path, *path.parents) if root in folder.parents)]


def _v2_quota(path: Path) -> float | None:
    numbers = _numbers(path)
    return numbers[0] / numbers[1] if len(numbers) == 2 else None  # "max 100000" holds one number: no quota


def _numbers(path: Path) -> list[int]:
    try:
        return [int(word) for word in path.read_text().split() if re.fullmatch(r"-?\d+", word)]
    except OSError:
        return []


def visible_gpus() -> list[str]:
    """The value of CUDA_VISIBLE_DEVICES for each GPU; empty without GPUs. Only those in the variable, if it is set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    nodes = len(list(Path("/dev").glob("nvidia[0-9]*")))  # without the driver, which may take a second
    return [str(n) for n in range(nodes or len(_gpu_names()))]


def usable_gpus() -> int:
    """GPUs that torch can compute with. Imports torch, and wakes the driver."""
    import torch

    return torch.cuda.device_count()


@cache
def _gpu_names() -> tuple[str, ...]:
    """Names in the driver's order, which is nvidia-smi's."""
    if shutil.which("nvidia-smi") is None:  # it comes with the driver
        return ()
    import pynvml  # slow to import, and not needed without a driver

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return tuple(pynvml.nvmlDeviceGetName(handle) for handle in handles)
    except pynvml.NVMLError:
        return ()


def hardware(device: str = "auto") -> str:
    """The name of what a run on `device` computes with."""
    names, visible = _gpu_names(), visible_gpus()
    if device == "cpu" or not visible:
        return cpu_name()
    first = visible[0]
    return names[int(first)] if first.isdigit() and int(first) < len(names) else (names or ("GPU",))[0]


@cache
def gpu_driver() -> str | None:
    """Version of the NVIDIA driver; None without one."""
    try:
        result = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d[\d.]*)", result)
    return found[1] if found else None


@cache
def cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
