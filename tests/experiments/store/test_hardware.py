"""Which names are those of GPUs. Oracle: nvidia-smi, rocm-smi and /proc/cpuinfo of machines that have such hardware."""

from __future__ import annotations

import pytest

from experiments.store.hardware import is_gpu

GPUS = [
    "NVIDIA H100 80GB HBM3",
    "NVIDIA GeForce RTX 3090",
    "NVIDIA TITAN RTX",
    "A100-SXM4-80GB",  # without the maker, as older drivers have it
    "A10G",
    "T4",
    "Tesla V100-SXM2-16GB",
    "GeForce GTX 1080 Ti",
    "Quadro RTX 6000",
    "RTX A6000",
    "TITAN Xp",
    "AMD Instinct MI300X",
    "AMD Radeon PRO W7900",
    "GPU",  # where nvidia-smi is not there to name it
]
CPUS = [
    "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz",
    "Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz",
    "Intel(R) Xeon(R) Platinum 8480+",
    "Intel(R) Core(TM) i9-14900K",
    "AMD EPYC 7763 64-Core Processor",
    "AMD EPYC 9654 96-Core Processor, 8 threads",
    "AMD Ryzen 7 5800U with Radeon Graphics",
    "AMD A10-7850K APU with Radeon(TM) R7 Graphics",
    "Neoverse-N1",
    "Cortex-A72",
    "A64FX",
    "Apple M2 Max",
    "x86_64",
    "",
]


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu(name: str) -> None:
    assert is_gpu(name)


@pytest.mark.parametrize("name", CPUS)
def test_no_gpu(name: str) -> None:
    assert not is_gpu(name)
