"""Cron expressions as Kubeflow Pipelines reads them: six fields, seconds first, in UTC.

The backend uses github.com/robfig/cron, version 1. Sunday is 0, and 7 is not allowed. A step after
a single number runs to the end of the range. If both the day of the month and the weekday are
restricted, a date matches when either of them does.
"""

import calendar
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from macrec.core.errors import UserError

MONTHS = [name for name in calendar.month_name if name]
WEEKDAYS = ["Sunday", *list(calendar.day_name)[:6]]
SEARCH_DAYS = 366 * 9
"""A 29 February occurs within this many days, even across a century year that has none."""
TIMES_IN_WORDS = 4


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: dict[str, int]


_FIELDS = [
    _Field("second", 0, 59, {}),
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day", 1, 31, {}),
    _Field("month", 1, 12, {m[:3].lower(): i for i, m in enumerate(MONTHS, 1)}),
    _Field("weekday", 0, 6, {d[:3].lower(): i for i, d in enumerate(WEEKDAYS)}),
]


class Cron(NamedTuple):
    """The allowed values of each field, and whether the day and weekday fields contain a star."""

    text: str
    values: tuple[frozenset[int], ...]
    any_day: bool
    any_weekday: bool

    def on(self, day: datetime) -> bool:
        """Return whether the expression matches a day."""
        _, _, _, days, months, weekdays = self.values
        in_month, in_week = day.day in days, day.isoweekday() % 7 in weekdays
        either = (in_month and in_week) if self.any_day or self.any_weekday else in_month or in_week
        return day.month in months and either

    def next_times(self, after: datetime, count: int) -> list[datetime]:
        """Return the next `count` times after a moment, in UTC; fewer if nine years have fewer."""
        seconds, minutes, hours = (sorted(v) for v in self.values[:3])
        midnight = after.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        found: list[datetime] = []
        for day in (midnight + timedelta(days=n) for n in range(SEARCH_DAYS)):
            if not self.on(day):
                continue
            for hour in hours:
                for minute in minutes:
                    for second in seconds:
                        moment = day.replace(hour=hour, minute=minute, second=second)
                        if moment > after:
                            found.append(moment)
                        if len(found) == count:
                            return found
        return found


def parse(text: str) -> Cron:
    """Parse and check a cron expression.

    Raises:
        UserError: if the expression is invalid or never matches. One message lists all invalid
            fields.
    """
    parts = text.split()
    if len(parts) != len(_FIELDS):
        hint = ""
        if len(parts) == 5:
            hint = f' Put the seconds before them: "0 {text}".'
        fields = ", ".join(f.name for f in _FIELDS)
        raise UserError(f"cron {text!r}: {len(parts)} fields, not 6 ({fields}).{hint}")
    problems: list[str] = []
    values: list[frozenset[int]] = []
    for field, part in zip(_FIELDS, parts, strict=True):
        try:
            values.append(frozenset(n for item in part.split(",") for n in _range(field, item)))
        except ValueError as error:
            problems.append(f"{field.name} {part!r}: {error}")
    if problems:
        raise UserError(f"cron {text!r}: " + "; ".join(problems) + ".")
    any_day, any_weekday = (_has_star(part) for part in (parts[3], parts[5]))
    cron = Cron(" ".join(parts), tuple(values), any_day, any_weekday)
    if not cron.next_times(datetime(2024, 1, 1, tzinfo=UTC), 1):
        raise UserError(f"cron {text!r}: there is no such day in any year.")
    return cron


def _has_star(part: str) -> bool:
    return any(item[:1] in "*?" for item in part.split(","))


def _range(field: _Field, item: str) -> range:
    """Return the numbers of one item: `*`, `N` or `N-M`, each with or without a step."""
    span, slash, step_text = item.partition("/")
    first, dash, last = span.partition("-")
    if first in ("*", "?"):
        if dash:
            raise ValueError("a range has numbers at both ends")
        low, high = field.low, field.high
    else:
        low = _number(field, first)
        high = _number(field, last) if dash else (field.high if slash else low)
    if not slash:
        step = 1
    elif step_text.isdigit() and int(step_text) > 0:
        step = int(step_text)
    else:
        raise ValueError(f"a step is a number above 0, not {step_text!r}")
    if low > high:
        raise ValueError(f"{span} runs backwards")
    return range(low, high + 1, step)


def _number(field: _Field, text: str) -> int:
    named = field.names.get(text.lower())
    if named is not None:
        return named
    known = f", or {' '.join(n.upper() for n in field.names)}" if field.names else ""
    allowed = f"{field.low} to {field.high}{known}"
    if not text.isdigit():
        raise ValueError(f"{text!r} is no number from {allowed}")
    if not field.low <= int(text) <= field.high:
        sunday = " (Sunday is 0)" if field.name == "weekday" and text == "7" else ""
        raise ValueError(f"{text} is not from {allowed}{sunday}")
    return int(text)


def in_words(cron: Cron) -> str:
    """Describe the expression in words, such as `every day at 03:00:00`."""
    return f"{_days(cron)} {_times(cron)}"


def _times(cron: Cron) -> str:
    seconds, minutes, hours = (sorted(v) for v in cron.values[:3])
    if len(seconds) * len(minutes) * len(hours) <= TIMES_IN_WORDS:
        times = [f"{h:02}:{m:02}:{s:02}" for h in hours for m in minutes for s in seconds]
        return "at " + _listed(times)
    parts = [_every("second", seconds, 60), _every("minute", minutes, 60)]
    return "at " + " of ".join([*parts, _every("hour", hours, 24)])


def _every(unit: str, values: Sequence[int], whole: int) -> str:
    if len(values) == whole:
        return f"every {unit}"
    steps = {b - a for a, b in zip(values, [*values[1:], values[0] + whole], strict=True)}
    if len(values) > 2 and len(steps) == 1 and steps != {1}:
        start = f" from {unit} {values[0]}" if values[0] else ""
        return f"every {steps.pop()} {unit}s{start}"
    return f"{unit}{'s' if len(values) > 1 else ''} {_spans(values, str)}"


def _days(cron: Cron) -> str:
    _, _, _, days, months, weekdays = (sorted(v) for v in cron.values)
    names = _spans(weekdays, lambda d: WEEKDAYS[d])
    month = _spans(months, lambda m: MONTHS[m - 1]) if len(months) < 12 else ""
    if len(days) == 31:
        when = f"every {names}" if len(weekdays) < 7 else "every day"
        return f"{when} in {month}" if month else when
    plural = "s" if len(days) > 1 else ""
    when = f"on day{plural} {_spans(days, str)} of {month or 'every month'}"
    if len(weekdays) == 7:
        return when
    either = not (cron.any_day or cron.any_weekday)
    return f"{when} and every {names}" if either else f"{when} that are {names}"


def _spans(values: Sequence[int], name: Callable[[int], str]) -> str:
    """Return the values in words; three or more consecutive values become `first to last`."""
    rows: list[list[int]] = []
    for value in values:
        if rows and value == rows[-1][-1] + 1:
            rows[-1].append(value)
        else:
            rows.append([value])
    words: list[str] = []
    for row in rows:
        if len(row) > 2:
            words.append(f"{name(row[0])} to {name(row[-1])}")
        else:
            words += [name(value) for value in row]
    return _listed(words)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else words[0]
