"""Axes of charts: ranges with round ends, round ticks, and labels that do not overlap."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Axis(NamedTuple):
    """A linear axis from data to picture units."""

    low: float
    high: float
    step: float
    ticks: tuple[float, ...]
    start: float
    """Picture coordinate of `low`."""
    end: float

    def at(self, value: float) -> float:
        """Return the picture coordinate of a value, clamped to the axis."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def axis(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    ticks: int = 5,
    tight: bool = False,
    zero: bool = False,
    whole: bool = False,
) -> Axis:
    """Return an axis over finite values.

    With `tight` (for x), the axis ends at the data instead of at a tick. With `zero` it includes
    zero, and with `whole` its ticks are integers. The axis is usable even for no value, a single
    value or equal values.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if zero or (0 <= low < 0.4 * high):
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        pad = abs(high) * 0.1 or 1.0
        pad = max(pad, 1.0) if whole else pad
        low, high, tight = (0.0 if zero or low == 0 else low - pad), high + pad, False
    step = nice_step((high - low) / ticks)
    step = max(1.0, step) if whole else step
    if not tight:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, step, tuple(n * step for n in range(first, last + 1)), start, end)


def nice_step(rough: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5, 10 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((m * power for m in (1, 2, 2.5, 5) if m * power >= rough * 0.999), 10 * power)


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart to at least `gap`, within low..high and in the same order."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    gap = min(gap, (high - low) / max(1, len(positions) - 1))
    placed = list(positions)
    floor = low
    for i in order:
        placed[i] = floor = max(placed[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed
