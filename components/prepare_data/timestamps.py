"""Converts timestamps of all common kinds to microseconds since 1970.

The unit of a number follows from its size. Below 1e11 it is seconds (year 5138), then milliseconds,
microseconds and nanoseconds; each limit is 1,000 times the one before. Text is a number or an ISO
8601 time; a time without a zone is UTC. A log must use one unit, which the caller checks. The
caller also decides whether numbers such as 20240131 are dates, because that follows from all rows.
"""

import math
from collections import Counter
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from components.prepare_data.calendar_numbers import count_forms, read_dates
from components.prepare_data.findings import mask, pc
from components.prepare_data.moments import has_zone, parse_moment, to_micros

UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
LIMITS = np.array([1e11, 1e14, 1e17])
DATES = "dates"
EXACT_IN_FLOAT32 = 2**24
"""Up to here, float32 contains every integer."""
HOUR = 3_600_000_000
ZONE = r"\d:?\d\d([.,]\d+)?([Zz]|[+-]\d\d(:?\d\d)?)$"


class Rounding(NamedTuple):
    """Counts numbers that show whether a column was ever stored as float32."""

    large: int = 0
    """Numbers that float32 cannot always contain."""
    exact: int = 0
    """Those of them that float32 contains."""
    hourly: int = 0
    """Those of them that are whole hours. Midnights are multiples of 128 s, so float32 contains
    them although nothing was rounded."""
    is_float32: bool = False
    """Whether the column is float32."""


class Times(NamedTuple):
    """The times of N rows."""

    micros: np.ndarray
    """Microseconds since 1970, int64 [N]."""
    null: np.ndarray
    """Which rows are null, bool [N]."""
    bad: np.ndarray
    """Which rows are invalid times, bool [N]."""
    units: Counter[str]
    """Valid rows per unit."""
    dates: np.ndarray | None = None
    """Microseconds of numbers such as 20240131 read as dates, -1 elsewhere; None without any."""
    forms: Counter[str] | None = None
    """Rows per form of such numbers; None without any."""
    zoned: np.ndarray | None = None
    """Which rows contain a time with a zone, bool [N]; None without any."""
    naive: np.ndarray | None = None
    """Which rows contain a date or time without a zone, bool [N]; None without any."""
    rounding: Rounding = Rounding()


def to_microseconds(column: pa.Array, text_format: str = "") -> Times:
    """Convert a column of integers, floats, decimals, dates, times or text.

    Negative, infinite and unreadable values are marked bad; empty text is null.

    Args:
        column: the values.
        text_format: format of text, as strptime reads it; empty for numbers and ISO 8601.
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
    text = column.cast(pa.large_string())
    return _from_format(text, text_format) if text_format else _from_text(text)


def _from_dates(column: pa.Array) -> Times:
    null = mask(column.is_null())
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    moments = pc.cast(column, pa.timestamp("us", zone), safe=False)
    micros = moments.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    bad = micros < 0
    valid = ~null & ~bad
    times = Times(micros, null, bad, Counter({DATES: int(valid.sum())}))
    return times._replace(zoned=valid) if zone else times._replace(naive=valid)


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
    rounding = _rounding(values, micros, pa.types.is_float32(column.type))
    return Times(micros, null, bad, units, *_dates_in(values), rounding=rounding)


def _dates_in(values: np.ndarray) -> tuple[np.ndarray | None, Counter[str] | None]:
    dates = read_dates(values)
    return dates, None if dates is None else Counter(count_forms(values[dates >= 0]))


def _rounding(values: np.ndarray, micros: np.ndarray, is_float32: bool) -> Rounding:
    large = values >= EXACT_IN_FLOAT32
    exact = large & (values.astype(np.float32) == values)
    count = int(np.count_nonzero(exact))
    hourly = int(np.count_nonzero(micros[exact] % HOUR == 0)) if count else 0
    return Rounding(int(np.count_nonzero(large)), count, hourly, is_float32)


def _from_format(column: pa.Array, text_format: str) -> Times:
    """Convert text of a format by Python's strptime, which refuses days that do not exist."""
    column = pc.utf8_trim_whitespace(column)
    null = mask(pc.or_kleene(column.is_null(), pc.equal(column, "")))
    encoded = pc.if_else(pa.array(null), pa.scalar(None, column.type), column).dictionary_encode()
    moments = [_parse_format(text, text_format) for text in encoded.dictionary.to_pylist()]
    found = pa.array(moments, pa.timestamp("us", "UTC")).take(encoded.indices)
    times = _from_dates(found)
    bad = (mask(found.is_null()) & ~null) | times.bad
    return times._replace(null=null, bad=bad, zoned=None, naive=None)


def _parse_format(text: str, text_format: str) -> datetime | None:
    try:
        moment = datetime.strptime(text, text_format)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _from_text(column: pa.Array) -> Times:
    """Convert the whole column as one kind, which is fast, or else value by value."""
    column = pc.utf8_trim_whitespace(column)
    column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    for kind in (pa.int64(), pa.float64(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return to_microseconds(pc.cast(column, kind))
        except pa.ArrowInvalid:
            continue
    try:
        return _by_zone(column)
    except pa.ArrowInvalid:
        return _one_by_one(column)


def _by_zone(column: pa.Array) -> Times:
    """Convert times with a zone and times without one, each kind as a whole.

    Raises:
        ArrowInvalid: a value is neither.
    """
    null, zoned = mask(column.is_null()), mask(pc.match_substring_regex(column, ZONE))
    micros, bad = np.zeros(len(column), np.int64), np.zeros(len(column), bool)
    units: Counter[str] = Counter()
    for rows, zone in ((zoned, "UTC"), (~zoned, None)):
        part = _from_dates(pc.cast(column.filter(pa.array(rows)), pa.timestamp("us", zone)))
        micros[rows], bad[rows] = part.micros, part.bad
        units += part.units
    valid = ~null & ~bad
    return Times(micros, null, bad, units, zoned=valid & zoned, naive=valid & ~zoned)


def _one_by_one(column: pa.Array) -> Times:
    micros, bad = np.zeros(len(column), np.int64), np.zeros(len(column), bool)
    zoned, naive = bad.copy(), bad.copy()
    values, units = np.zeros(len(column)), Counter[str]()
    for row, text in enumerate(column.to_pylist()):
        if text is None:
            continue
        one = None
        if (number := _number(text)) is not None:
            one = _from_numbers(pa.array([number]))
            values[row] = 0 if one.bad[0] else number
        elif (moment := parse_moment(text)) is not None:
            one = _from_dates(pa.array([to_micros(moment)], pa.timestamp("us")))
            (zoned if has_zone(text) else naive)[row] = not one.bad[0]
        if one is None or one.bad[0]:
            bad[row] = True
        else:
            micros[row] = one.micros[0]
            units += one.units
    null = mask(column.is_null())
    return Times(micros, null, bad, units, *_dates_in(values), zoned, naive)


def _number(text: str) -> float | int | None:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if abs(number) < 2**63 else math.inf  # Arrow has no larger integers
    return None
