"""Yields rows of CSV and JSON lines in blocks, each row with the number of its first line.

A block in which every line is a valid row, the usual case, is parsed as a whole, which is several
times as fast. Any other block is parsed row by row with the same parser and so gives the same rows.
Each unreadable line is reported by its number.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Literal, NamedTuple, TextIO, TypeVar

Kind = Literal["id", "text", "path", "time"]
"""Role of a column: `path` is the path of a picture."""
Cells = Sequence[str | None]
Report = Callable[[int, str], None]

LARGEST_FIELD = 16 * 1024 * 1024  # characters; an unclosed quote must not swallow the file
# characters: a few kilobytes of gzip may expand to a line of gigabytes
LONGEST_LINE = 32 * 1024 * 1024
BLOCK_CHARACTERS = 32 * 1024 * 1024  # characters in memory at once, whatever the number of lines

LINE_BREAK = re.compile(r"\r\n|\n|\r")
LONGEST_START = 64
"""Characters of a first cell up to which a line may be the beginning of a row."""
UNIT_SEPARATOR = "\x1f"
"""Stands for a delimiter of several characters while a line is parsed."""
DELIMITERS = (",", ";", "\t", "|", "::")
"""Delimiters that a header is tried with."""

Row = TypeVar("Row")


class Block(NamedTuple):
    """Line numbers of some rows, and their cells column by column."""

    numbers: Sequence[int]
    columns: Sequence[Cells]


class Dialect(NamedTuple):
    """How the cells of a line are separated."""

    delimiter: str = ","
    """One character or several, such as `::`."""
    quote: str = '"'
    """Character around cells that contain the delimiter or a line break; empty for no quoting."""

    def reader(self, lines: Iterable[str]) -> Any:
        """Return a csv.reader of the lines."""
        if len(self.delimiter) > 1:  # csv accepts one character only
            lines = (line.replace(self.delimiter, UNIT_SEPARATOR) for line in lines)
        return csv.reader(
            lines,
            delimiter=self.delimiter if len(self.delimiter) == 1 else UNIT_SEPARATOR,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            strict=True,
        )


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


def _dialect(delimiter: str, quote: str) -> Dialect:
    # Files with a delimiter of several characters have no quoting: their titles contain quotes.
    return Dialect(delimiter, quote if len(delimiter) == 1 else "")


def guess_delimiter(lines: Sequence[str], usual: str, quote: str, width: int = 0) -> str:
    """Return the delimiter of a text from its first lines.

    A delimiter that splits two lines into the same number of cells is preferred, then one that
    splits the first line into more cells; the usual one wins a tie.

    Args:
        lines: the first two lines, or fewer.
        usual: the delimiter that the name of the file suggests.
        quote: the quoting character.
        width: the number of cells, if it is known; it decides over everything else.
    """
    best, most = usual, (False, False, 0)
    for delimiter in (usual, *DELIMITERS):
        cells = [_count_cells(line, _dialect(delimiter, quote)) for line in lines] or [0]
        score = (cells[0] == width > 1, len(cells) > 1 and cells[0] == cells[1] > 1, cells[0])
        if score > most:
            best, most = delimiter, score
    return best


def _count_cells(line: str, dialect: Dialect) -> int:
    """Return the number of cells of a line; 0 if it is not a whole row."""
    try:
        return len(next(dialect.reader([line]), []))
    except csv.Error:
        return 0


class CsvText:
    """The rows of a delimited text: a header, then blocks of rows."""

    def __init__(self, stream: TextIO, report: Report) -> None:
        """Begin at the start of a stream.

        Args:
            stream: the file.
            report: is called with the line number and the reason of each bad row.
        """
        csv.field_size_limit(LARGEST_FIELD)  # the default rejects a description above 128 KiB
        self._source, self._report, self._line = _lines(stream), report, 0
        self.dialect = Dialect()

    def choose_dialect(self, delimiter: str, usual: str, quote: str, width: int) -> None:
        """Choose how cells are separated.

        Args:
            delimiter: the delimiter; if it is empty, the first line that is not blank and the line
                below it decide.
            usual: the delimiter that the name of the file suggests.
            quote: the quoting character.
            width: the number of columns, if it is known, else 0.
        """
        sample: list[str] = []
        for line in self._source:
            if line.isspace():
                self._line += 1
                continue
            sample = [line, *islice(self._source, 1)]
            self._source = chain(sample, self._source)
            break
        delimiter = delimiter or guess_delimiter(sample, usual, quote, width)
        self.dialect = _dialect(delimiter, quote)

    def header(self) -> list[str]:
        """Return the first row that is not blank; [] for an empty file."""
        reader = self.dialect.reader(self._source)
        for _, row in _rows(reader, self._line, self._report):
            self._line += reader.line_num
            return [cell.strip() for cell in row]
        return []

    def blocks(self, width: int, size: int, suspect: Report) -> Iterator[Block]:
        """Yield the rows below the header, with all their columns.

        Args:
            width: number of columns.
            size: rows in a block.
            suspect: is called with the line number and the text of each cell that seems to contain
                the rest of one row and the beginning of another.
        """
        line, dialect = self._line, self.dialect
        while lines := _block(self._source, size, len):
            rows = _plain_csv(lines, width, dialect)
            if rows is None:
                break
            yield Block(range(line + 1, line + 1 + len(rows)), list(zip(*rows, strict=True)))
            line += len(lines)
        else:
            return
        # A quoted field may span blocks, so rows are counted one by one from here on.
        found = _rows(dialect.reader(chain(lines, self._source)), line, self._report)
        good = _of_width(found, width, self._report)
        good = _watch_for_lost_quotes(good, dialect.delimiter, suspect)
        while pairs := _block(good, size, lambda pair: sum(map(len, pair[1]))):
            numbers, rows = zip(*pairs, strict=True)
            yield Block(numbers, list(zip(*rows, strict=True)))


def _plain_csv(lines: list[str], width: int, dialect: Dialect) -> list[list[str]] | None:
    try:
        rows = list(dialect.reader(lines))
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


def _watch_for_lost_quotes(
    rows: Iterable[tuple[int, list[str]]], delimiter: str, suspect: Report
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows; call `suspect` for a cell that may have swallowed the end of its row."""
    for line, row in rows:
        for place, cell in enumerate(row):
            if ("\n" in cell or "\r" in cell) and _has_row_end(cell, place, len(row), delimiter):
                suspect(line, cell)
        yield line, row


def _has_row_end(cell: str, place: int, width: int, delimiter: str) -> bool:
    """Return whether a cell looks like the end of one row and the beginning of another.

    Without its closing quote, a cell goes on to the next quote. Then a line break in it has as many
    delimiters before it as its own row lacks, and as many behind it as the other row has before
    this column. Whole rows may stand in between.
    """
    lines = LINE_BREAK.split(cell)
    counts = [line.count(delimiter) for line in lines]
    before, after, whole = 0, sum(counts), width - 1

    def fits(count: int, expected: int) -> bool:
        rest = count - expected
        return rest == 0 or (whole > 1 and rest > 0 and rest % whole == 0)

    for k, count in enumerate(counts[:-1]):
        before, after = before + count, after - count
        start = lines[k + 1].partition(delimiter)[0].strip()
        if fits(before, whole - place) and fits(after, place) and 0 < len(start) <= LONGEST_START:
            return before + after > 0
    return False


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


def _read_constant(name: str) -> float | None:
    """Return the value of a number that JSON does not have; NaN is what programs write for null."""
    return None if name == "NaN" else float(name)


_decode = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_read_constant).decode


def _cell(value: Any, name: str, kind: Kind) -> str | None:
    if value is None or type(value) is str:
        return value
    if type(value) is int or (type(value) is float and kind != "id"):
        return str(value)
    if kind in ("text", "path") and isinstance(value, list):
        texts = [v for v in value if v is not None]
        if all(type(v) is str for v in texts):
            # Of several paths the reader takes the first, as from a list in a cell of a CSV file.
            return json.dumps(texts) if kind == "path" else ", ".join(texts)
    expected = "a path or a list of paths" if kind == "path" else "text"
    raise ValueError(f"{name!r} is {json.dumps(value)[:40]}, expected {expected}")
