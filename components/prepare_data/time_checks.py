"""Checks whether the times of a log are plausible, and finds what they mean.

Each check is one pass over a chunk in NumPy, so that 100 million rows need seconds more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from components.prepare_data.calendar_numbers import FORMS, read_dates_again
from components.prepare_data.findings import Tally, pc
from components.prepare_data.moments import EPOCH, parse_limit, to_micros
from components.prepare_data.readers import Chunk
from components.prepare_data.spec import Settings
from components.prepare_data.timestamps import Rounding, to_microseconds

PLAUSIBLE_FROM = to_micros(EPOCH.replace(year=1990))
PLAUSIBLE_TO = to_micros(EPOCH.replace(year=2101))
LEAST_ROWS = 100
"""Fewer times can be multiples of 128 s by chance, so they do not show a rounding."""


def resolve_latest(latest_time: str, now: datetime) -> int:
    """Return the last allowed time in microseconds since 1970.

    The clock decides only whether a log is refused, never what is written. A log that passes once
    passes at any later time, so a reused result and a new one are the same.
    """
    return to_micros(parse_limit(latest_time) or now + timedelta(days=1))


class TimeChecks:
    """Collects the times of a log and what is wrong with them.

    Numbers such as 20240131 are counted twice, as times since 1970 and as dates. Which of the two
    they are follows from all rows.
    """

    def __init__(self, config: Settings, latest: int) -> None:
        self.column, self.setting = config.timestamp_column, config.latest_time
        self.text_format, self.latest = config.timestamp_format, latest
        self.units: Counter[str] = Counter()
        self.forms: Counter[str] = Counter()
        self.missing, self.invalid = Tally(), Tally()
        self.early, self.late = Tally(), Tally()
        self.date_as_number_early, self.date_as_number_late = Tally(), Tally()
        self.date_late = Tally()
        self.dates, self.others = Tally(), Tally()
        self.zoned, self.naive = Tally(), Tally()
        self._implausible = 0
        self._rounding = Rounding()
        self._has_float32 = False
        self._micros: list[np.ndarray] = []

    def add(self, chunk: Chunk, column: pa.Array) -> None:
        """Add the next rows."""
        times = to_microseconds(column, self.text_format)
        valid = ~times.null & ~times.bad
        is_date = times.dates >= 0 if times.dates is not None else np.zeros(len(valid), bool)

        def show_value(row: int) -> str:
            return f"{chunk.where(row)}: {_format_cell(column, row)!r}"

        def show_value_and_time(row: int) -> str:
            return f"{show_value(row)} = {_format_time(times.micros[row])}"

        self.missing.add_rows(times.null, chunk.where)
        self.invalid.add_rows(times.bad, show_value)
        early, late = valid & (times.micros < PLAUSIBLE_FROM), times.micros > self.latest
        self.early.add_rows(early & ~is_date, show_value_and_time)
        self.late.add_rows(valid & late & ~is_date, show_value_and_time)
        if times.dates is not None:
            self.date_as_number_early.add_rows(early & is_date, show_value_and_time)
            self.date_as_number_late.add_rows(late & is_date, show_value_and_time)
            self.date_late.add_rows(times.dates > self.latest, show_value)
            self._implausible += int(np.count_nonzero(times.micros[is_date] >= PLAUSIBLE_TO))
        self.dates.add_rows(is_date, show_value)
        self.others.add_rows(valid & ~is_date, show_value)
        self._implausible += int(np.count_nonzero(early))
        for tally, rows in ((self.zoned, times.zoned), (self.naive, times.naive)):
            if rows is not None:
                tally.add_rows(rows, show_value)
        self.units += times.units
        self.forms += times.forms or Counter()
        self._add_rounding(times.rounding)
        self._micros.append(times.micros)

    @property
    def has_dates(self) -> bool:
        """Whether numbers such as 20240131 are dates.

        A log of small counters may contain some of these numbers by chance. They are dates only if
        they are at least half of all implausible times.
        """
        return 0 < self._implausible <= 2 * self.dates.count

    def join(self) -> np.ndarray:
        """Return microseconds since 1970 of all rows, int64 [N]."""
        if self.has_dates and not self.others.count:
            for k, micros in enumerate(self._micros):
                self._micros[k] = read_dates_again(micros)
        return np.concatenate(self._micros) if self._micros else np.zeros(0, np.int64)

    def find_problems(self, name: str, rows: int) -> Iterator[str]:
        """Yield what makes the times unusable.

        A time in the future is a problem even if it is the only one. It becomes its user's latest
        interaction, which is the test item, so it must neither be kept nor dropped silently.
        """
        column = self.column
        if self.missing.count:
            yield (
                f"{name}: {self.missing.count:,} of {rows:,} rows have no time in {column!r} "
                f"{self.missing.examples}. Remove them, or set prepare_data.timestamp_column= if "
                "the log's own order is the order in time."
            )
        if self.invalid.count:
            advice = (
                f"They do not match prepare_data.timestamp_format={self.text_format}."
                if self.text_format
                else "Give seconds or milliseconds since 1970 or ISO 8601, or set "
                "prepare_data.timestamp_format, such as %d.%m.%Y %H:%M."
            )
            yield (
                f"{name}: {self.invalid.count:,} of {rows:,} values of {column!r} are no time "
                f"since 1970 {self.invalid.examples}. {advice}"
            )
        units = self._count_units()
        if len(units) > 1:
            listed = ", ".join(f"{n:,} in {unit}" for unit, n in units.most_common())
            yield (
                f"{name}: {column!r} mixes units ({listed}){self._show_rarer_rows()}. "
                "Convert them all to one, milliseconds since 1970 for instance."
            )
        late = self.late + (self.date_late if self.has_dates else self.date_as_number_late)
        if late.count:
            yield self._describe_late(name, late, rows)

    def find_warnings(self, name: str, rows: int) -> Iterator[str]:
        """Yield what makes the times doubtful."""
        column = self.column
        early = self.early
        if self.has_dates and not self.others.count:
            form = ", ".join(self.forms)
            yield (
                f"{name}: {self.dates.count:,} of {rows:,} numbers in {column!r} are dates of the "
                f"form {form} {self.dates.few_examples}. They are read as dates in UTC, not as "
                "times since 1970."
            )
        if not self.has_dates:
            early += self.date_as_number_early
        if early.count:
            yield (
                f"{name}: {early.count:,} of {rows:,} times in {column!r} are before 1990 "
                f"{early.examples}. Check their unit, and whether 0 stands for an unknown time."
            )
        if self.zoned.count and self.naive.count:
            yield (
                f"{name}: {self.naive.count:,} times in {column!r} have no zone "
                f"{self.naive.few_examples}, {self.zoned.count:,} have one "
                f"{self.zoned.few_examples}. Times without a zone are read as UTC. If they are "
                "local times, their order is wrong by some hours: write all times with a zone."
            )

    @property
    def is_rounded(self) -> bool:
        """Whether the times were stored as float32, which keeps 128 s steps of today's seconds.

        The column may have been cast to another type since: then all times are multiples of the
        step, but not all are midnights.
        """
        large, exact, hourly, _ = self._rounding
        was_cast = large >= LEAST_ROWS and exact == large > hourly
        return self._has_float32 or was_cast

    def _add_rounding(self, found: Rounding) -> None:
        large, exact, hourly, _ = self._rounding
        self._rounding = Rounding(large + found.large, exact + found.exact, hourly + found.hourly)
        self._has_float32 |= found.is_float32 and found.large > found.hourly

    def _describe_late(self, name: str, late: Tally, rows: int) -> str:
        limit = f"{_format_time(self.latest)} UTC"
        source = f"prepare_data.latest_time={self.setting}" if self.setting else "now plus a day"
        advice = (
            "Most times are in the future: check the unit of the column."
            if 2 * late.count > rows
            else "The latest item of a user is their test item. Correct or remove these rows."
        )
        return (
            f"{name}: {late.count:,} of {rows:,} times in {self.column!r} are after {limit} "
            f"({source}) {late.examples}. {advice} If the times are right, set "
            "prepare_data.latest_time to a later time."
        )

    def _count_units(self) -> Counter[str]:
        if not self.has_dates:
            return self.units
        units = self.units.copy()
        for form, n in self.forms.items():
            units[f"dates of the form {form}"] = n
            units["seconds" if FORMS[form] == 1 else "milliseconds"] -= n
        return +units

    def _show_rarer_rows(self) -> str:
        if not self.has_dates or not self.others.count:
            return ""
        rarer = min(self.dates, self.others, key=lambda tally: tally.count)
        return f" {rarer.examples}"


def describe_range(micros: np.ndarray) -> str:
    """Return the first and the last of some times, which are microseconds since 1970."""
    first, last = (EPOCH + timedelta(microseconds=int(t)) for t in (micros.min(), micros.max()))
    return f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"


def describe_rounding(name: str, column: str, shared: int, rows: int) -> str:
    """Return a warning about times that were stored as float32.

    Args:
        name: the log.
        column: the column of the times.
        shared: interactions with the same time as another one of their user.
        rows: all interactions.
    """
    return (
        f"{name}: the times in {column!r} are rounded to float32, about 128 seconds apart. "
        f"{shared:,} of {rows:,} interactions have the same time as another one of their user: the "
        "order of the log decides between them. Export the column again as int64 or float64 from "
        "the source; a cast does not restore the order."
    )


def _format_cell(column: pa.Array, row: int) -> str:
    """Return a cell as text. A cast also shows times that Python's datetime cannot contain."""
    cell = column.slice(row, 1)
    if pa.types.is_temporal(cell.type):
        cell = pc.cast(cell, pa.string())
    return str(cell[0].as_py())[:40]


def _format_time(micros: int) -> str:
    return str(np.datetime64(int(micros) // 1_000_000, "s"))
