"""Yields rows of CSV and JSON lines in blocks, each row with the number of its first line.

A block in which every line is a valid row, the usual case, is parsed as a whole, which is several
times as fast. Any other block is parsed row by row with the same parser and so gives the same rows.
Each unreadable line is reported by its number.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Literal, NamedTuple, TextIO, TypeVar

Kind = Literal["id", "text", "time"]
Cells = Sequence[str | None]
Report = Callable[[int, str], None]

LARGEST_FIELD = 16 * 1024 * 1024  # characters; an unclosed quote must not swallow the file
# characters: a few kilobytes of gzip may expand to a line of gigabytes
LONGEST_LINE = 32 * 1024 * 1024
BLOCK_CHARACTERS = 32 * 1024 * 1024  # characters in memory at once, whatever the number of lines

Row = TypeVar("Row")


class Block(NamedTuple):
    """Line numbers of some rows, and their cells column by column."""

    numbers: Sequence[int]
    columns: Sequence[Cells]


class OverlongLine(Exception):
    """A line exceeds LONGEST_LINE characters. Nothing after it is read."""


def _lines(stream: TextIO, before: int = 0) -> Iterator[str]:
    for line, text in enumerate(iter(partial(stream.readline, LONGEST_LINE), ""), before + 1):
        if len(text) == LONGEST_LINE:
            raise OverlongLine(f"line {line:,}: more than {LONGEST_LINE - 1:,} characters")
        yield text


def _block(rows: Iterator[Row], size: int, length: Callable[[Row], int]) -> list[Row]:
    """Return the next rows: at most `size`, and none after BLOCK_CHARACTERS is reached."""
    block: list[Row] = []
    room = BLOCK_CHARACTERS
    for row in islice(rows, size):
        block.append(row)
        room -= length(row)
        if room <= 0:
            break
    return block


def csv_header(stream: TextIO, report: Report) -> tuple[list[str], int]:
    """Return the first row that is not blank and its last line number; [] for an empty file."""
    csv.field_size_limit(LARGEST_FIELD)  # the default rejects a description above 128 KiB
    reader = csv.reader(_lines(stream), strict=True)
    for _, row in _rows(reader, 0, report):
        return row, reader.line_num
    return [], reader.line_num


def csv_blocks(stream: TextIO, width: int, line: int, size: int, report: Report) -> Iterator[Block]:
    """Yield the rows below the header, with all their columns.

    Args:
        stream: the file, positioned after the header.
        width: number of columns.
        line: number of lines read so far.
        size: rows in a block.
        report: is called with the line number and the reason of each bad row.
    """
    source = _lines(stream, line)
    while lines := _block(source, size, len):
        rows = _plain_csv(lines, width)
        if rows is None:
            break
        yield Block(range(line + 1, line + 1 + len(rows)), list(zip(*rows, strict=True)))
        line += len(lines)
    else:
        return
    # A quoted field may span blocks, so rows are counted one by one from here on.
    found = _rows(csv.reader(chain(lines, source), strict=True), line, report)
    good = _of_width(found, width, report)
    while pairs := _block(good, size, lambda pair: sum(map(len, pair[1]))):
        numbers, rows = zip(*pairs, strict=True)
        yield Block(numbers, list(zip(*rows, strict=True)))


def _plain_csv(lines: list[str], width: int) -> list[list[str]] | None:
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error:
        return None
    return rows if len(rows) == len(lines) and set(map(len, rows)) == {width} else None


def _rows(reader: Any, before: int, report: Report) -> Iterator[tuple[int, list[str]]]:
    while True:
        line = before + reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            report(line, str(error))
            continue
        if row:
            yield line, row


def _of_width(
    rows: Iterable[tuple[int, list[str]]], width: int, report: Report
) -> Iterator[tuple[int, list[str]]]:
    for line, row in rows:
        if len(row) == width:
            yield line, row
        else:
            report(line, f"{len(row)} fields, the header has {width}")


def json_blocks(
    stream: TextIO, kinds: Mapping[str, Kind], size: int, report: Report, seen: set[str]
) -> Iterator[Block]:
    """Yield the requested columns of each object; a cell is null where the object lacks the key.

    Args:
        stream: the file.
        kinds: the requested columns and their roles.
        size: lines in a block.
        report: is called with the line number and the reason of each bad line.
        seen: every key that occurs is added to this set.
    """
    source, line = _lines(stream), 0
    while lines := _block(source, size, len):
        columns = _plain_json(lines, kinds, seen)
        numbers: Sequence[int] = range(line + 1, line + 1 + len(lines))
        if columns is None:
            rows = list(_json_rows(lines, line, kinds, report, seen))
            numbers = [number for number, _ in rows]
            columns = list[Cells](zip(*(cells for _, cells in rows), strict=True))
        if numbers:
            yield Block(numbers, columns)
        line += len(lines)


def _plain_json(lines: list[str], kinds: Mapping[str, Kind], seen: set[str]) -> list[Cells] | None:
    try:
        records = [_decode(text) for text in lines]
    except (ValueError, RecursionError):
        return None
    if set(map(type, records)) != {dict}:
        return None
    columns: list[Cells] = []
    for name in kinds:
        values = [record.get(name) for record in records]
        types = set(map(type, values))
        if types <= {str, type(None)}:
            columns.append(values)
        elif types == {int}:
            columns.append(list(map(str, values)))
        else:
            return None
    seen.update(*records)
    return columns


def _json_rows(
    lines: list[str], before: int, kinds: Mapping[str, Kind], report: Report, seen: set[str]
) -> Iterator[tuple[int, Cells]]:
    for line, text in enumerate(lines, before + 1):
        if text.isspace():
            continue
        try:
            record = _decode(text)
            if not isinstance(record, dict):
                raise ValueError("not a JSON object; write one object per line")
            cells = [_cell(record.get(name), name, kind) for name, kind in kinds.items()]
        except (ValueError, RecursionError) as error:
            report(line, str(error))
            continue
        seen.update(record)
        yield line, cells


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} twice")
    return record


_decode = json.JSONDecoder(object_pairs_hook=_unique_keys).decode


def _cell(value: Any, name: str, kind: Kind) -> str | None:
    if value is None or type(value) is str:
        return value
    if type(value) is int or (type(value) is float and kind != "id"):
        return str(value)
    if kind == "text" and isinstance(value, list) and all(type(v) is str for v in value):
        return ", ".join(value)
    raise ValueError(f"{name!r} is {json.dumps(value)[:40]}, expected text")
