"""Format numbers for the report; a missing number is an en dash."""

import math

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
LARGEST = 1e12
"""A number beyond this is an overflow, not a measurement, and is treated as missing."""


def usable(value: float | None) -> bool:
    """Return whether the value is a number that can be shown."""
    return value is not None and math.isfinite(value) and abs(value) < LARGEST


def metric(value: float | None) -> str:
    """Format a metric with four decimals: 0.0512."""
    return _signed(f"{value:.4f}") if value is not None and usable(value) else DASH


def count(value: float | None) -> str:
    """Format a count with thousands separators: 18,618."""
    return _signed(f"{value:,.0f}") if value is not None and usable(value) else DASH


def short(value: int) -> str:
    """Format a count in at most six characters: 18,618, 120k, 3.4M."""
    if value < 100_000:
        return f"{value:,}"
    return f"{value / 1e3:.0f}k" if value < 1_000_000 else f"{value / 1e6:,.1f}M"


def decimal(value: float | None, places: int = 1) -> str:
    """Format a number with thousands separators and `places` decimals: 1,204.5."""
    return _signed(f"{value:,.{places}f}") if value is not None and usable(value) else DASH


def percent(share: float | None, places: int = 1) -> str:
    """Format a share 0..1 as a percentage: 12.4 %."""
    if share is None or not usable(share):
        return DASH
    return _signed(f"{100 * share:,.{places}f}") + "\N{NO-BREAK SPACE}%"


def change(value: float | None, base: float | None) -> str:
    """Format the relative change from `base` to `value`: +7.1 %."""
    if value is None or base is None or not usable(value) or not usable(base) or base <= 0:
        return DASH
    ratio = value / base - 1
    return ("+" if ratio >= 0 else "") + percent(ratio)


def duration(seconds: float | None) -> str:
    """Format a duration: 0.4 s, 12 s, 3 min 05 s, 2 h 04 min."""
    if seconds is None or not usable(seconds) or seconds < 0:
        return DASH
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def fact(value: float | int | str | None) -> str:
    """Format a count, a measured number or a phrase."""
    if value is None or isinstance(value, str):
        return value or DASH
    return count(value) if isinstance(value, int) else decimal(value, 2)


def tick(value: float, step: float) -> str:
    """Format an axis label with just enough decimals to distinguish adjacent ticks."""
    if abs(value) < step / 1e6:
        return "0"
    if step >= 1e6:
        return _signed(f"{value / 1e6:,.0f}M")
    if step >= 1e4:
        return _signed(f"{value / 1e3:,.0f}k")
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    if places > 4:
        return _signed(f"{value:.1e}")
    # Steps such as 2.5 and 0.25 need one more decimal than their power of ten.
    if abs(round(step, places) - step) > step / 100:
        places += 1
    return _signed(f"{value:,.{places}f}")


def _signed(text: str) -> str:
    if text.startswith("-"):
        # -0.0000 would show a sign that the printed digits do not support.
        return text[1:] if not text.strip("-0.,") else MINUS + text[1:]
    return text
