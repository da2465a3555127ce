"""Reads and checks the interaction log, and turns it into integer arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.prepare_data.catalogue import look_alike_form
from components.prepare_data.findings import FIRST, Tally, pc
from components.prepare_data.interactions import Interactions
from components.prepare_data.readers import TEXT, Chunk, Reader, is_blank
from components.prepare_data.source_problems import source_problems
from components.prepare_data.spec import Settings
from components.prepare_data.text_rows import Kind
from components.prepare_data.timestamps import to_microseconds

ROWS = 131_072
UNKNOWN_SHARE = 0.01
PLAUSIBLE_YEARS = (1990, 2100)


class IdCodes:
    """Maps each distinct id to an integer, in the order of first appearance; null maps to -1.

    Ids are buffered until there are as many as known ids. Each round hashes the known ids again, so
    the total time stays linear in the rows. The texts in memory are about twice the distinct ids.
    """

    def __init__(self, known: pa.LargeStringArray, least: int = 1_048_576) -> None:
        self.ids, self.least = known, least
        self._waiting: list[pa.Array] = []
        self._rows = 0
        self._codes: list[np.ndarray] = []

    def add(self, column: pa.LargeStringArray) -> None:
        """Add the next rows."""
        self._waiting.append(column)
        self._rows += len(column)
        if self._rows >= max(self.least, len(self.ids)):
            self._encode()

    def codes(self) -> np.ndarray:
        """Return the codes of all rows, int32 [N]. Afterwards `ids` holds the id of each code."""
        self._encode()
        return np.concatenate(self._codes) if self._codes else np.zeros(0, np.int32)

    def _encode(self) -> None:
        if not self._rows:
            return
        # Known ids come first, so that they keep their codes.
        encoded = pa.chunked_array([self.ids, *self._waiting], TEXT).dictionary_encode()
        codes = pa.concat_arrays([chunk.indices for chunk in encoded.chunks])
        self._codes.append(codes[len(self.ids) :].fill_null(-1).to_numpy())
        self.ids = encoded.chunk(0).dictionary
        self._waiting, self._rows = [], 0


@dataclass
class Log:
    """The result of the pass over the log. Without problems, `interactions` contains every row."""

    rows: int
    interactions: Interactions
    user_ids: pa.LargeStringArray
    unknown_rows: int
    problems: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])


def _settings(config: Settings) -> dict[str, str]:
    """Return the setting that names each column to read."""
    settings = {
        config.user_id_column: "user_id_column",
        config.interaction_item_column: "interaction_item_column",
    }
    if config.timestamp_column:
        settings[config.timestamp_column] = "timestamp_column"
    return settings


class _Scan:
    """Collects results over the chunks of a pass."""

    def __init__(self, config: Settings, items: pa.LargeStringArray) -> None:
        self.config = config
        self.users, self.items = IdCodes(pa.array([], TEXT)), IdCodes(items)
        self.micros: list[np.ndarray] = []
        self.units: Counter[str] = Counter()
        self.rows = 0
        self.no_user, self.no_item = Tally(), Tally()
        self.no_time, self.bad_time = Tally(), Tally()

    def add(self, chunk: Chunk) -> None:
        self.rows += chunk.rows
        user = chunk.columns[self.config.user_id_column]
        item = chunk.columns[self.config.interaction_item_column]
        self.no_user.add_rows(is_blank(user), chunk.where)
        self.no_item.add_rows(is_blank(item), chunk.where)
        self.users.add(user)
        self.items.add(item)
        if self.config.timestamp_column:
            self._add_times(chunk, chunk.columns[self.config.timestamp_column])

    def _add_times(self, chunk: Chunk, column: pa.Array) -> None:
        times = to_microseconds(column)
        self.no_time.add_rows(times.null, chunk.where)
        self.bad_time.add_rows(
            times.bad, lambda row: f"{chunk.where(row)}: {str(column[row].as_py())[:40]!r}"
        )
        self.units += times.units
        self.micros.append(times.micros)

    def log(self) -> Log:
        micros = np.concatenate(self.micros) if self.micros else None
        arrays = Interactions(self.users.codes(), self.items.codes(), micros)
        return Log(self.rows, arrays, self.users.ids, 0)


def read_log(config: Settings, path: Path, items: pa.LargeStringArray) -> Log:
    """Read the log in one pass and find all its problems.

    Args:
        config: the stage's settings.
        path: the log.
        items: distinct ids of the catalogue; item codes in the result are positions in it.

    Raises:
        UserError: there is no data at the path.
    """
    reader, scan = Reader(path, ROWS), _Scan(config, items)
    settings = _settings(config)
    kinds: dict[str, Kind] = dict.fromkeys(settings, "id")
    if config.timestamp_column:
        kinds[config.timestamp_column] = "time"
    for chunk in reader.chunks(kinds):
        scan.add(chunk)
    log = scan.log()
    log.problems += source_problems(reader, log.rows, settings, set())
    for name, tally in (
        (config.user_id_column, scan.no_user),
        (config.interaction_item_column, scan.no_item),
    ):
        if tally.count and reader.has(name):
            log.problems.append(
                f"{reader.name}: {tally.count:,} of {log.rows:,} rows have no id in {name!r} "
                f"{tally.examples}. Remove them."
            )
    if config.timestamp_column and reader.has(config.timestamp_column):
        log.problems += _time_problems(reader.name, config, scan)
        _warn_of_odd_years(reader.name, log)
    if reader.has(config.interaction_item_column) and len(items):
        _judge_unknown_items(reader.name, config, log, items, scan.items.ids)
    return log


def _time_problems(name: str, config: Settings, scan: _Scan) -> Iterator[str]:
    column = config.timestamp_column
    if scan.no_time.count:
        yield (
            f"{name}: {scan.no_time.count:,} of {scan.rows:,} rows have no time in {column!r} "
            f'{scan.no_time.examples}. Remove them, or set timestamp_column="" if the log\'s own '
            "order is the order in time."
        )
    if scan.bad_time.count:
        yield (
            f"{name}: {scan.bad_time.count:,} of {scan.rows:,} values of {column!r} are no time "
            f"since 1970 {scan.bad_time.examples}. "
            "Give seconds or milliseconds since 1970, or ISO 8601."
        )
    if len(scan.units) > 1:
        units = ", ".join(f"{rows:,} in {unit}" for unit, rows in scan.units.most_common())
        yield (
            f"{name}: {column!r} mixes units ({units}). Convert them all to one, "
            "milliseconds since 1970 for instance."
        )


def _warn_of_odd_years(name: str, log: Log) -> None:
    micros = log.interactions.micros
    if micros is None or len(micros) == 0 or log.problems:
        return
    first, last = (
        datetime.fromtimestamp(int(t) // 10**6, UTC) for t in (micros.min(), micros.max())
    )
    if first.year < PLAUSIBLE_YEARS[0] or last.year > PLAUSIBLE_YEARS[1]:
        log.warnings.append(
            f"{name}: the times run from {first:%Y-%m-%d} to {last:%Y-%m-%d}. Check their unit."
        )


def _judge_unknown_items(
    name: str, config: Settings, log: Log, items: pa.Array, ids: pa.LargeStringArray
) -> None:
    """Count rows with items that the catalogue lacks; more than 1 % of the rows is a problem."""
    log.unknown_rows = int(np.count_nonzero(log.interactions.item >= len(items)))
    if log.unknown_rows == 0:
        return
    unknown = ids[len(items) :]
    shown = ", ".join(repr(item) for item in unknown[:FIRST].to_pylist())
    message = (
        f"{name}: {log.unknown_rows:,} of {log.rows:,} rows name {len(unknown):,} items absent "
        f"from the catalogue (first: {shown})."
    )
    alike = pc.sum(pc.is_in(_lenient_form(unknown), pc.unique(_lenient_form(items)))).as_py()
    if alike:
        message += (
            f" {alike:,} of them match an item if case, outer spaces, Unicode form and leading "
            "zeros are ignored: were the ids changed on the way?"
        )
    if config.unknown_items == "fail" and log.unknown_rows > UNKNOWN_SHARE * log.rows:
        advice = 'Complete the catalogue, or set unknown_items="drop" to leave these rows out.'
        log.problems.append(f"{message} {advice}")
    else:
        log.warnings.append(f"{message} These rows are left out.")


def _lenient_form(ids: pa.Array) -> pa.Array:
    return pc.utf8_ltrim(look_alike_form(ids), "0")
