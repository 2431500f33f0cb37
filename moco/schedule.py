"""Learning rate, weight decay and momentum as functions of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math

from moco.config import LARS, SGD, AdamW, Cosine, Momentum, Schedule, Step


def learning_rate(schedule: Schedule, base: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The rate of `step` (from 0). Linear warm-up from 0 over `warmup_epochs`, then the schedule.

    v1: x factor at milestones; v2: half cosine per epoch (main_moco.py); v3: half cosine per step after the warm-up.
    """
    exact_epoch = step / steps_per_epoch
    if exact_epoch < schedule.warmup_epochs:
        return base * exact_epoch / schedule.warmup_epochs
    match schedule:
        case Step(milestones=milestones, factor=factor):
            return base * float(factor ** sum(exact_epoch >= m for m in milestones))
        case Cosine(warmup_epochs=warmup, per_step=per_step, first_epoch=first):
            epoch = exact_epoch if per_step else step // steps_per_epoch + first
            share = (epoch - warmup) / max(epochs - warmup, 1e-9)
            return base * 0.5 * (1.0 + math.cos(math.pi * share))


def half_cosine(start: float, end: float, step: int, total_steps: int) -> float:
    """From `start` at step 0 to `end` at `total_steps`, one step after the last."""
    return end - (end - start) * 0.5 * (1.0 + math.cos(math.pi * step / total_steps))


def momentum_at(config: Momentum, step: int, total_steps: int) -> float:
    """m of the update before `step` (from 0). v3: 1 - (1 - m) (1 + cos(pi e / E)) / 2 with fractional epochs e of E."""
    if config.ramp_to is None:
        return config.momentum
    return half_cosine(config.momentum, config.ramp_to, step, total_steps)


def weight_decay_at(config: SGD | AdamW | LARS, step: int, total_steps: int) -> float:
    if config.weight_decay_to is None:
        return config.weight_decay
    return half_cosine(config.weight_decay, config.weight_decay_to, step, total_steps)
