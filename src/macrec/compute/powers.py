"""Powers of two, for sizes that are chosen from the data."""

import math


def nearest_power_of_two(value: float, least: int, most: int) -> int:
    """Return the power of two nearest to a positive value on a logarithmic scale.

    The result is limited to the range from `least` to `most`, which are powers of two.
    """
    return min(max(2 ** round(math.log2(value)), least), most)
