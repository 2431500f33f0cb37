"""What a number was measured on. Says nothing about whose machine it is: no host, no user, no path."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.run.machine import cores, cpu_name

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16")
PACKAGES = ("torchvision", "numpy", "pillow", "lightly")


def compute_on(device: str, threads: int) -> None:
    """Raises ValueError for a GPU that is not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA GPU here; leave --device out to measure on the CPU")
    torch.set_num_threads(threads)


def machine(device: str, packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """CPU with its vector flags, cores, torch's threads, GPU (None on a CPU), versions (None: not installed), the day."""
    import torch

    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "flags": cpu_flags(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: installed(name) for name in packages},
        },
        "date": date.today().isoformat(),
    }


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Those of `FLAGS` that the CPU has; empty where it does not say."""
    try:
        found = re.search(r"^flags\s*: (.*)$", path.read_text(), re.MULTILINE)
    except OSError:
        return []
    have = set(found[1].split()) if found else set()
    return [flag for flag in FLAGS if flag in have]


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def one_line(facts: dict[str, Any]) -> str:
    where = (
        facts["gpu"] or f"{facts['cpu']}, {' '.join(f for f in facts['flags'] if f.startswith(('amx', 'avx512_b')))}"
    )
    threads = "" if facts["threads"] is None else f", {facts['threads']} threads"
    return f"{where}; {facts['cores']} cores{threads}; torch {facts['versions']['torch']}"
