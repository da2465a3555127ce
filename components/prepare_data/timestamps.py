"""Converts timestamps of all common kinds to microseconds since 1970.

The unit of a number follows from its size. Below 1e11 it is seconds (year 5138), then milliseconds,
microseconds and nanoseconds; each limit is 1,000 times the one before. Text is a number or an ISO
8601 time; a time without a zone is UTC. A log must use one unit, which the caller checks.
"""

import math
from collections import Counter
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from components.prepare_data.findings import mask, pc

UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
LIMITS = np.array([1e11, 1e14, 1e17])
DATES = "dates"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Times(NamedTuple):
    """Microseconds int64 [N], which rows are null, which are invalid times, and rows per unit."""

    micros: np.ndarray
    null: np.ndarray
    bad: np.ndarray
    units: Counter[str]


def to_microseconds(column: pa.Array) -> Times:
    """Convert a column of integers, floats, decimals, dates, times or text.

    Negative, infinite and unreadable values are marked bad; empty text is null.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _from_dates(column)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_null(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _from_numbers(column)
    return _from_text(column.cast(pa.large_string()))


def _from_dates(column: pa.Array) -> Times:
    null = mask(column.is_null())
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    moments = pc.cast(column, pa.timestamp("us", zone), safe=False)
    micros = moments.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    bad = micros < 0
    return Times(micros, null, bad, Counter({DATES: int((~null & ~bad).sum())}))


def _from_numbers(column: pa.Array) -> Times:
    null = mask(column.is_null())
    if pa.types.is_integer(column.type):
        values = pc.cast(column, pa.int64(), safe=False).fill_null(0).to_numpy()
    else:
        values = pc.cast(column, pa.float64()).fill_null(0).to_numpy()
    bad = ~np.isfinite(values) | (values < 0) | (values >= 2.0**63)
    values = np.where(bad, 0, values)
    unit = np.searchsorted(LIMITS, values, side="right")
    if values.dtype == np.int64:
        scale = np.array([1_000_000, 1_000, 1, 1])[unit]
        micros = np.where(unit == 3, values // 1_000, values * scale)
    else:
        micros = np.rint(values * np.array([1e6, 1e3, 1.0, 1e-3])[unit]).astype(np.int64)
    counts = np.bincount(unit[~bad & ~null], minlength=len(UNITS))
    units = Counter({name: int(n) for name, n in zip(UNITS, counts, strict=True) if n})
    return Times(micros, null, bad, units)


def _from_text(column: pa.Array) -> Times:
    """Convert the whole column as one kind, which is fast, or else value by value."""
    column = pc.utf8_trim_whitespace(column)
    column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    for kind in (pa.int64(), pa.float64(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return to_microseconds(pc.cast(column, kind))
        except pa.ArrowInvalid:
            continue
    return _one_by_one(column)


def _one_by_one(column: pa.Array) -> Times:
    micros, bad = np.zeros(len(column), np.int64), np.zeros(len(column), bool)
    units: Counter[str] = Counter()
    for row, text in enumerate(column.to_pylist()):
        if text is None:
            continue
        one = _from_numbers(pa.array([number])) if (number := _number(text)) is not None else None
        if one is None and (moment := _moment(text)) is not None:
            one = _from_dates(pa.array([moment], pa.timestamp("us")))
        if one is None or one.bad[0]:
            bad[row] = True
        else:
            micros[row] = one.micros[0]
            units += one.units
    return Times(micros, mask(column.is_null()), bad, units)


def _number(text: str) -> float | int | None:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if abs(number) < 2**63 else math.inf  # Arrow has no larger integers
    return None


def _moment(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    elapsed = moment - EPOCH  # integers throughout, because a float of seconds loses microseconds
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
