"""Schedules the learning rate: warm-up, constant, decay to zero once validation stops improving.

A cosine over a fixed number of epochs never decays if early stopping ends it half way. Here
stopping IS the start of the decay. It begins from the best weights, after `patience` validations
without improvement or when the epochs are used up. Every run ends near zero.
"""

import math
from dataclasses import dataclass


@dataclass
class Schedule:
    """The state of the schedule; steps count optimizer steps from 0."""

    peak: float
    warmup_steps: int
    decay_start: int | None = None
    decay_steps: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay_start is None:
            return self.peak * warm
        left = self.decay_steps - (step - self.decay_start)
        return self.peak * warm * max(left, 0) / (self.decay_steps + 1)


def decay_epochs(share: float, epochs_done: int) -> int:
    """Return the epochs of the decay: a share of those up to the best weights, at least one."""
    return max(1, math.ceil(share * epochs_done)) if share else 0
