"""Errors that callers tell apart by class. Imports no torch, so that a launcher may know them."""

from __future__ import annotations


class Diverged(ArithmeticError):
    """The loss is not finite any more."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"diverged: the loss is {loss} at step {step}; lower optim.lr or raise loss.temperature")
        self.step = step


class GpuOutOfMemory(MemoryError):
    """A step does not fit into the GPU; the text says which fields to turn."""


class PeerLost(RuntimeError):
    """Another process of the run is gone, or does not answer, and nobody knows why."""


class PeerFailed(RuntimeError):
    """Another process of the run ended with an error, which is the text."""


class UnusableFeatures(ValueError):
    """Features that no readout can use: NaN, infinite, too large, or the same for all images. The text has the counts."""


class FieldError(ValueError):
    """A field has a value that it cannot have. A command that has an option for the field names that instead."""

    def __init__(self, field: str, value: object, problem: str) -> None:
        super().__init__(f"{field} = {value}: {problem}")
        self.field, self.value, self.problem = field, value, problem
