"""Defines what is drawn from the seed; each use has its own random numbers.

Everything random in training is drawn from (seed, use, place). No generator state must be saved for
an interrupted training to resume.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """A use of the seed.

    The numbers must not change, or the same seed would train another model.
    """

    VALIDATION = 0
    ORDER = 1
    PAIRS = 2
    DROPOUT = 3
    HISTORY = 4


def generator(seed: int, stream: Stream, *place: int) -> np.random.Generator:
    """Return the generator of one use at one place, such as an epoch or a step."""
    return np.random.default_rng([seed, stream, *place])
