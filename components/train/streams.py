"""What is drawn from the seed; each use has random numbers of its own.

Whatever is random in training is drawn anew from (seed, use, place): no state of a generator needs
to be kept for a training to go on where it was cut short.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """A use of the seed; the numbers must stay, or the same seed would train another model."""

    VALIDATION = 0
    ORDER = 1
    PAIRS = 2
    DROPOUT = 3
    HISTORY = 4


def generator(seed: int, stream: Stream, *place: int) -> np.random.Generator:
    """The generator of one use at one place, such as an epoch or a step."""
    return np.random.default_rng([seed, stream, *place])
