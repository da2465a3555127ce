"""Recognises dates that are written as one number, such as 20240131 or 20240131123000.

Read as a time since 1970, such a number is a moment of August 1970, of 1976, or of the 27th
century. No log has these times, so a column of such numbers can only contain dates.
"""

import numpy as np

FORMS = {"YYYYMMDD": 1, "YYYYMMDDHHMM": 10**4, "YYYYMMDDHHMMSS": 10**6}
FIRST_DAY, DAY_AFTER = 19900101, 21010101
LARGEST_IN_SECONDS = 10**14
"""Numbers of 8 digits are read as seconds, longer ones as milliseconds: their microseconds are
below and above this limit."""


def read_dates(numbers: np.ndarray) -> np.ndarray | None:
    """Return microseconds since 1970 in UTC, -1 for a number that is no date; None without dates.

    Args:
        numbers: integers, or floats, which are dates only if they are whole.
    """
    micros = None
    for scale in FORMS.values():
        near = (numbers >= FIRST_DAY * scale) & (numbers < DAY_AFTER * scale)
        if not near.any():  # the usual case, so that a column of seconds costs two comparisons
            continue
        rows = np.flatnonzero(near)
        whole = numbers[rows].astype(np.int64)
        micros = np.full(len(numbers), -1, np.int64) if micros is None else micros
        micros[rows] = np.where(whole == numbers[rows], _parse(whole, scale), -1)
    return micros


def read_dates_again(micros: np.ndarray) -> np.ndarray:
    """Return the dates of numbers that were read as times since 1970, all in microseconds."""
    unit = np.where(micros < LARGEST_IN_SECONDS, 1_000_000, 1_000)
    dates = read_dates(micros // unit)
    return np.full(len(micros), -1, np.int64) if dates is None else dates


def count_forms(numbers: np.ndarray) -> dict[str, int]:
    """Return how many numbers have each form; all of them must be dates."""
    limits = [DAY_AFTER * scale for scale in FORMS.values()]
    counts = np.bincount(np.searchsorted(limits, numbers, side="right"), minlength=len(FORMS))
    return {form: int(n) for form, n in zip(FORMS, counts, strict=True) if n}


def _parse(numbers: np.ndarray, scale: int) -> np.ndarray:
    days, clock = np.divmod(numbers, scale)
    clock = clock * (10**6 // scale) if scale > 1 else np.zeros_like(clock)
    year, month, day = days // 10_000, days // 100 % 100, days % 100
    hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
    first = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    start = first.astype("datetime64[D]").astype(np.int64)
    length = (first + 1).astype("datetime64[D]").astype(np.int64) - start
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (day <= length)
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    seconds = (start + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second
    return np.where(valid, seconds * 1_000_000, -1)
