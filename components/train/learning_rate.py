"""The learning rate: warm up, stay, decay to zero once validation has stopped improving.

A cosine over a number of epochs fixed beforehand never decays when early stopping ends it half
way. Here stopping IS the start of the decay: it begins from the best weights, when `patience`
validations in a row brought nothing, or when the epochs are used up. Every run ends near zero.
"""

import math
from dataclasses import dataclass


@dataclass
class Schedule:
    """State of the schedule; steps count optimizer steps from 0."""

    peak: float
    warmup_steps: int
    decay_start: int | None = None
    decay_steps: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay_start is None:
            return self.peak * warm
        left = self.decay_steps - (step - self.decay_start)
        return self.peak * warm * max(left, 0) / (self.decay_steps + 1)


def decay_epochs(share: float, epochs_done: int) -> int:
    """Epochs of the decay: a share of those behind the best weights, at least one."""
    return max(1, math.ceil(share * epochs_done)) if share else 0
