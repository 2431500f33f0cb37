"""How much of a step no rewriting can save: the time inside its convolutions, matrix products and attention."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

ARITHMETIC = ("conv", "mm", "attention")  # in the names of the operators that do nearly all of the FLOPs


def arithmetic_share(step: Callable[[], None], device: str) -> float:
    """Of the time inside one step's operators, that of those which are arithmetic. What lies between them is in neither."""
    on_gpu = torch.device(device).type == "cuda"
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler talks of GPUs where there are none
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    step()
    with profile(activities=activities) as seen:
        step()
    # A kernel's time is told twice: of the kernel, and of the operator that launched it.
    operators = [event for event in seen.key_averages() if event.device_type.name == "CPU"]
    seconds = {
        event.key: float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) for event in operators
    }
    arithmetic = sum(value for name, value in seconds.items() if is_arithmetic(name))
    return arithmetic / sum(seconds.values())


def is_arithmetic(operator: str) -> bool:
    return operator.startswith("aten::") and any(part in operator for part in ARITHMETIC)
