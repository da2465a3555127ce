"""Reads and checks the interaction log, and turns it into integer arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.prepare_data.catalogue import look_alike_form
from components.prepare_data.findings import FIRST, Tally, mask, pc
from components.prepare_data.interactions import Interactions
from components.prepare_data.readers import TEXT, Chunk, Reader, is_blank, text_options
from components.prepare_data.source_problems import (
    describe_files,
    describe_unused,
    source_problems,
    warn_of_empty_files,
)
from components.prepare_data.spec import Settings
from components.prepare_data.text_rows import Kind
from components.prepare_data.time_checks import TimeChecks, resolve_latest

ROWS = 131_072
UNKNOWN_SHARE = 0.01


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
    is_rated_high: np.ndarray | None = None
    """Which rows min_rating keeps, bool [N]; None if it keeps all."""
    files: list[str] = field(default_factory=list[str])
    """Every file that was read, with its rows, in the order of reading."""
    unused: str = ""
    """A line about the columns that no setting names; empty without any."""
    has_rounded_times: bool = False
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
    if config.min_rating:
        settings[config.rating_column] = "rating_column"
    return settings


def _kinds(config: Settings) -> dict[str, Kind]:
    kinds: dict[str, Kind] = dict.fromkeys(_settings(config), "id")
    if config.timestamp_column:
        kinds[config.timestamp_column] = "time"
    if config.min_rating:
        kinds[config.rating_column] = "text"
    return kinds


class _Scan:
    """Collects results over the chunks of a pass."""

    def __init__(self, config: Settings, items: pa.LargeStringArray, now: datetime) -> None:
        self.config = config
        self.users, self.items = IdCodes(pa.array([], TEXT)), IdCodes(items)
        self.times: TimeChecks | None = None
        if config.timestamp_column:
            latest = resolve_latest(config.latest_time, now)
            self.times = TimeChecks(config, latest)
        self.rows = 0
        self.no_user, self.no_item = Tally(), Tally()
        self.bad_rating = Tally()
        self.is_rated_high: list[np.ndarray] = []
        self.no_match = Tally()
        self.pattern = re.compile(config.item_pattern) if config.item_pattern else None

    def add(self, chunk: Chunk) -> None:
        if self.pattern:
            whole, item = chunk, self.config.interaction_item_column
            chunk, has_match = expand_items(whole, item, self.pattern)
            self.no_match.add_rows(~has_match, whole.where)
        self.rows += chunk.rows
        if self.config.min_rating:
            self._add_ratings(chunk, chunk.columns[self.config.rating_column])
        user = chunk.columns[self.config.user_id_column]
        item = chunk.columns[self.config.interaction_item_column]
        self.no_user.add_rows(is_blank(user), chunk.where)
        self.no_item.add_rows(is_blank(item), chunk.where)
        self.users.add(user)
        self.items.add(item)
        if self.times:
            self.times.add(chunk, chunk.columns[self.config.timestamp_column])

    def _add_ratings(self, chunk: Chunk, column: pa.Array) -> None:
        ratings, bad = to_numbers(column)
        self.bad_rating.add_rows(
            bad, lambda row: f"{chunk.where(row)}: {str(column[row].as_py())[:40]!r}"
        )
        # Comparing is false for a missing rating, which is NaN.
        self.is_rated_high.append(ratings >= self.config.min_rating)

    def log(self) -> Log:
        micros = self.times.join() if self.times else None
        arrays = Interactions(self.users.codes(), self.items.codes(), micros)
        log = Log(self.rows, arrays, self.users.ids, 0)
        if self.is_rated_high:
            log.is_rated_high = np.concatenate(self.is_rated_high)
        return log


def to_numbers(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a text column, float64 [N], and which cells are no number, bool [N].

    A cell that is empty or no number becomes NaN. The decimal separator is a point or a comma.
    """
    column = pc.utf8_trim_whitespace(column)
    column = pc.replace_substring_regex(column, r"^([+-]?\d*),(\d+)$", r"\1.\2")
    is_nan = pc.equal(pc.utf8_lower(column), "nan")  # a missing number of a Parquet file
    column = pc.if_else(is_nan, pa.scalar(None, column.type), column)
    column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    pattern = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"
    valid = mask(pc.match_substring_regex(column, pattern))
    kept = pc.if_else(pa.array(valid), column, pa.scalar(None, column.type))
    numbers = kept.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers, mask(column.is_valid()) & ~valid


def expand_items(chunk: Chunk, column: str, pattern: re.Pattern[str]) -> tuple[Chunk, np.ndarray]:
    """Return a chunk with one row per match of the pattern in a column, in the order of the cell.

    Args:
        chunk: rows with several items in a cell.
        column: the column with these cells.
        pattern: its first group, or else the whole match, is an item id.

    Returns:
        The chunk, and which rows of the given one have a match, bool [N].
    """
    group = 1 if pattern.groups else 0
    cells = chunk.columns[column].to_pylist()
    found = [[m[group] for m in pattern.finditer(cell or "")] for cell in cells]
    counts = np.array([len(ids) for ids in found], np.int64)
    # The cells themselves are not repeated: a cell with n items has the size of n items.
    others = {name: values for name, values in chunk.columns.items() if name != column}
    expanded = chunk._replace(columns=others).take(np.repeat(np.arange(chunk.rows), counts))
    expanded.columns[column] = pa.array([item for ids in found for item in ids], TEXT)
    return expanded, counts > 0


def read_log(config: Settings, path: Path, items: pa.LargeStringArray, now: datetime) -> Log:
    """Read the log in one pass and find all its problems.

    Args:
        config: the stage's settings.
        path: the log.
        items: distinct ids of the catalogue; item codes in the result are positions in it.
        now: the current time, from which the default of latest_time follows.

    Raises:
        UserError: there is no data at the path.
    """
    reader = Reader(path, ROWS, text_options(config, config.log_columns))
    scan, settings = _Scan(config, items, now), _settings(config)
    for chunk in reader.chunks(_kinds(config)):
        scan.add(chunk)
    log = scan.log()
    log.files = describe_files(reader)
    log.unused = describe_unused(reader, settings)
    log.warnings += warn_of_empty_files(reader)
    if config.rating_column in reader.seen and not config.min_rating:
        log.warnings.append(
            f"{reader.name}: the column {config.rating_column!r} is not used, so each row counts "
            "as positive. Set prepare_data.min_rating to drop low ratings."
        )
    log.warnings += reader.notes.warnings(reader.name, settings)
    log.problems += _rating_problems(reader, config, scan)
    if scan.no_match.count:
        log.warnings.append(
            f"{reader.name}: {scan.no_match.count:,} rows have no match of "
            f"prepare_data.item_pattern {scan.no_match.few_examples}. They are left out."
        )
    log.warnings += _warn_of_look_alike_users(reader.name, log.user_ids)
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
    if scan.times and reader.has(config.timestamp_column):
        log.problems += scan.times.find_problems(reader.name, log.rows)
        log.warnings += scan.times.find_warnings(reader.name, log.rows)
        log.has_rounded_times = scan.times.is_rounded
    if reader.has(config.interaction_item_column) and len(items):
        _judge_unknown_items(reader.name, config, log, items, scan.items.ids)
    return log


def _rating_problems(reader: Reader, config: Settings, scan: _Scan) -> Iterator[str]:
    if scan.bad_rating.count and reader.has(config.rating_column):
        yield (
            f"{reader.name}: {scan.bad_rating.count:,} of {scan.rows:,} values of "
            f"{config.rating_column!r} (rating_column) are no numbers {scan.bad_rating.examples}. "
            "Correct them, or set prepare_data.min_rating=0 to count every row."
        )


def _warn_of_look_alike_users(name: str, ids: pa.LargeStringArray) -> Iterator[str]:
    forms = pc.value_counts(_lenient_form(pc.unique(ids.drop_null())))
    several = forms.filter(pc.greater(forms.field("counts"), 1))
    if len(several):
        shown = ", ".join(repr(form)[:60] for form in several.field("values")[:3].to_pylist())
        yield (
            f"{name}: {pc.sum(several.field('counts')).as_py():,} user ids differ only in case, "
            f"outer spaces, Unicode form, leading zeros or a final '.0' (such as {shown}). They "
            "count as different users."
        )


def _judge_unknown_items(
    name: str, config: Settings, log: Log, items: pa.Array, ids: pa.LargeStringArray
) -> None:
    """Count rows with items that the catalogue lacks; more than 1 % of the rows is a problem."""
    log.unknown_rows = int(np.count_nonzero(log.interactions.item >= len(items)))
    if log.unknown_rows == 0:
        return
    unknown = ids[len(items) :]
    unknown = unknown.filter(pa.array(~is_blank(unknown)))  # reported as rows without an id
    if not len(unknown):
        return
    shown = ", ".join(repr(item) for item in unknown[:FIRST].to_pylist())
    message = (
        f"{name}: {log.unknown_rows:,} of {log.rows:,} rows name {len(unknown):,} items absent "
        f"from the catalogue (first: {shown})."
    )
    alike = pc.sum(pc.is_in(_lenient_form(unknown), pc.unique(_lenient_form(items)))).as_py()
    if alike:
        message += (
            f" {alike:,} of them match an item if case, outer spaces, Unicode form, leading zeros "
            "and a final '.0' are ignored: were the ids changed on the way?"
        )
    if config.unknown_items == "fail" and log.unknown_rows > UNKNOWN_SHARE * log.rows:
        advice = (
            "Complete the catalogue, or set prepare_data.unknown_items=drop to leave these rows "
            "out."
        )
        log.problems.append(f"{message} {advice}")
    else:
        log.warnings.append(f"{message} These rows are left out.")


def _lenient_form(ids: pa.Array) -> pa.Array:
    return pc.utf8_ltrim(pc.replace_substring_regex(look_alike_form(ids), r"\.0+$", ""), "0")
