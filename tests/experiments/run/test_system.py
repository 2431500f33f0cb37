"""What the machine does. Oracle: nothing is measured where there is nothing to measure, and nothing is raised."""

from __future__ import annotations

from experiments.run.system import Gpu, SystemMetrics


def test_a_gpu_that_the_driver_does_not_know_has_no_values() -> None:
    """The same on a machine without the driver's library: NVML's errors are one family."""
    gpu = Gpu(identity=lambda: "GPU-00000000-0000-0000-0000-000000000000")
    assert [gpu.sample(), gpu.sample()] == [{}, {}]


def test_before_torch_uses_a_gpu_the_driver_is_not_asked() -> None:
    assert Gpu(identity=lambda: None).sample() == {}


def test_nothing_is_due_within_the_first_second() -> None:
    assert SystemMetrics("cpu").due() == {}
