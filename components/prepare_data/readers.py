"""Reads rows of delimited text, JSON lines and Parquet files, a bounded number at a time.

A source is one file, a folder of files of one format, or a folder whose sub-folders `key=value` add
columns (Hive partitions). Files are read in the natural order of their paths. Column types follow
from the column's role and are never guessed. An id is text, so `00123` keeps its zeros and `NA` is
not null. Unreadable lines are counted, recorded and skipped; the caller decides what to do about
them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.prepare_data.cells import (
    flatten_lists,
    is_garbled,
    is_long,
    is_null_text,
    parse_lists,
)
from components.prepare_data.file_content import DAMAGED, contains_ascii, open_text
from components.prepare_data.files import DataFile, Format, find_files
from components.prepare_data.findings import Notes, Tally, make_printable, mask, pc
from components.prepare_data.spec import Settings
from components.prepare_data.text_rows import (
    Block,
    Cells,
    CsvText,
    Kind,
    OverlongLine,
    json_blocks,
)

BROKEN = (pa.ArrowInvalid, pa.ArrowNotImplementedError)
BATCH_BYTES = 32 << 20  # of Parquet data in memory
LINE_END = "\n"
TEXT = pa.large_string()  # 32-bit offsets overflow on a column of more than 2 GB


class Chunk(NamedTuple):
    """A block of rows: every requested column (null where the file lacks it) and positions."""

    columns: dict[str, pa.Array]
    rows: int
    file: str
    numbers: Sequence[int]
    unit: Literal["line", "row"]

    def where(self, row: int) -> str:
        """Return the file and line of a row, for messages."""
        return f"{self.file} {self.unit} {self.numbers[row]:,}"

    def take(self, rows: np.ndarray) -> "Chunk":
        """Return the chunk of the given row positions; a row may be taken several times."""
        numbers = np.asarray(self.numbers)[rows].tolist()
        columns = {name: column.take(pa.array(rows)) for name, column in self.columns.items()}
        return self._replace(columns=columns, rows=len(rows), numbers=numbers)


@dataclass(frozen=True)
class TextOptions:
    """How text files are read. The defaults find everything out from the file."""

    delimiter: str = ""
    """Delimiter of the cells; empty: the header decides."""
    quote: str = '"'
    """Quoting character; empty: cells are not quoted."""
    encoding: str = ""
    """Encoding of what is not UTF-8; a byte order mark wins. Empty: all text is UTF-8."""
    columns: tuple[str, ...] = ()
    """Names of the columns of files without a header line; empty: the first line is the header."""


def text_options(config: Settings, columns: tuple[str, ...]) -> TextOptions:
    """Return how the text files of a source are read.

    Args:
        config: the stage's settings.
        columns: names of the columns of files without a header line.
    """
    return TextOptions(config.delimiter, config.quote_character, config.encoding, columns)


class Reader:
    """Reads a source.

    After a full pass, `seen` contains its columns, `bad` its unreadable lines, `notes` its
    suspicious cells, and `rows_by_file` the number of rows of each file.
    """

    def __init__(self, path: Path, batch_rows: int, options: TextOptions | None = None) -> None:
        self.name, self.batch_rows = make_printable(path.name), batch_rows
        self.options = options or TextOptions()
        self.files = find_files(path, self.options.encoding)
        self.rows_by_file: Counter[str] = Counter({file.name: 0 for file in self.files})
        self.delimiters: dict[str, str] = {}
        self.notes = Notes()
        self.seen: set[str] = set()
        self.bad = Tally()
        self.wrong_types: dict[str, str] = {}
        self.lacking: dict[str, list[str]] = {}

    def has(self, name: str) -> bool:
        """Return whether a pass has found the column with a readable type."""
        return name in self.seen and name not in self.wrong_types

    def chunks(self, columns: Mapping[str, Kind]) -> Iterator[Chunk]:
        """Yield every row of the source in order, with the given columns."""
        readers: dict[Format, Callable[[DataFile, Mapping[str, Kind]], Iterator[Chunk]]] = {
            "csv": self._csv,
            "jsonl": self._jsonl,
            "parquet": self._parquet,
        }
        for file in self.files:
            self.seen.update(file.partition)
            with self._damage_counted(file):
                for chunk in readers[file.format](file, columns):
                    self._add_partition(chunk, file)
                    self._read_cells(chunk, columns)
                    self.rows_by_file[file.name] += chunk.rows
                    yield self._without_nul(chunk)

    @contextmanager
    def _damage_counted(self, file: DataFile) -> Iterator[None]:
        """Record a truncated or damaged file as bad input, but let disk errors through.

        Disk errors are those with an errno.
        """
        try:
            yield
        except OverlongLine as error:
            self.bad.add(f"{file.name} {error}; what follows is not read")
        except (*DAMAGED, UnicodeError, *BROKEN) as error:
            self.bad.add(f"{file.name}: {str(error).partition(LINE_END)[0]}")
        except MemoryError as error:
            reason = str(error).partition("\n")[0]
            self.bad.add(f"{file.name}: needs more memory than there is ({reason})")
        except OSError as error:
            if error.errno is not None:
                raise
            self.bad.add(f"{file.name}: {str(error).partition(LINE_END)[0]}")

    def _add_partition(self, chunk: Chunk, file: DataFile) -> None:
        for name, value in file.partition.items():
            if name in chunk.columns and chunk.columns[name].null_count == chunk.rows:
                chunk.columns[name] = pa.repeat(pa.scalar(value, TEXT), chunk.rows)

    def _without_nul(self, chunk: Chunk) -> Chunk:
        for name, column in chunk.columns.items():
            if column.type == TEXT and pc.any(nul := pc.match_substring(column, "\0")).as_py():
                rows = mask(nul)
                self.bad.add_rows(rows, lambda i: f"{chunk.where(i)}: NUL character")
                chunk.columns[name] = pc.if_else(nul, pa.scalar(None, TEXT), column)
        return chunk

    def _note_columns(
        self, file: DataFile, names: Sequence[str], wanted: Mapping[str, Kind]
    ) -> None:
        self.seen.update(names)
        for name in wanted:
            if name not in names and name not in file.partition:
                self.lacking.setdefault(name, []).append(file.name)
            if names.count(name) > 1:
                self.bad.add(f"{file.name}: several columns {name!r}")

    def _csv(self, file: DataFile, columns: Mapping[str, Kind]) -> Iterator[Chunk]:
        options = self.options
        with open_text(file.path, file.compression, self._encoding(file), newline="") as stream:
            text = CsvText(stream, self._report_to(file))
            usual = "\t" if file.is_tab_separated else ","
            text.choose_dialect(options.delimiter, usual, options.quote, len(options.columns))
            header = list(options.columns) or text.header()
            if not header:
                return
            self.delimiters[file.name] = text.dialect.delimiter
            self._note_columns(file, header, columns)
            for block in text.blocks(len(header), self.batch_rows, self._suspect_in(file)):
                self._refuse_headers(file, header, block)
                by_name = dict(zip(header, block.columns, strict=True))
                empty = (None,) * len(block.numbers)
                found = [by_name.get(name, empty) for name in columns]
                yield self._text_chunk(file, columns, Block(block.numbers, found))

    def _refuse_headers(self, file: DataFile, header: Sequence[str], block: Block) -> None:
        """Report rows that repeat the header, as in files that were joined."""
        if header[0] not in block.columns[0]:
            return
        for number, row in zip(block.numbers, zip(*block.columns, strict=True), strict=True):
            if [str(cell).strip() for cell in row] == list(header):
                advice = "remove catalog_columns and log_columns" if self.options.columns else ""
                self.bad.add(
                    f"{file.name} line {number:,}: is a header{'; ' * bool(advice)}{advice}"
                )

    def _jsonl(self, file: DataFile, columns: Mapping[str, Kind]) -> Iterator[Chunk]:
        report = self._report_to(file)
        with open_text(file.path, file.compression, self._encoding(file), newline="\n") as stream:
            for block in json_blocks(stream, columns, self.batch_rows, report, self.seen):
                yield self._text_chunk(file, columns, block)

    def _encoding(self, file: DataFile) -> str:
        setting = self.options.encoding
        return file.encoding or (setting if setting and contains_ascii(setting) else "")

    def _suspect_in(self, file: DataFile) -> Callable[[int, str], None]:
        def note(line: int, cell: str) -> None:
            self.notes.lost_quote.add(f"{file.name} line {line:,}: {cell[:40]!r}")

        return note

    def _read_cells(self, chunk: Chunk, kinds: Mapping[str, Kind]) -> None:
        """Replace lists in the cells of text columns, and note what is suspicious."""
        for name, kind in kinds.items():
            column = chunk.columns[name]
            if kind == "time" or column.type != TEXT:
                continue
            if kind != "id":
                parsed = parse_lists(column, first_only=kind == "path")
                chunk.columns[name] = column = parsed.column
                if kind == "text":
                    self.notes.add(name, "list", parsed.is_list, chunk.where)
                self.notes.add(name, "several_paths", parsed.is_longer, chunk.where)
                self.notes.add(name, "unparsed_list", parsed.is_unparsed, chunk.where)
                self.notes.add(name, "long", is_long(column), chunk.where)
            self.notes.add(name, "garbled", is_garbled(column), chunk.where)
            self.notes.add(name, "null_text", is_null_text(column), chunk.where)

    def _report_to(self, file: DataFile) -> Callable[[int, str], None]:
        return lambda line, reason: self.bad.add(f"{file.name} line {line:,}: {reason}")

    def _text_chunk(self, file: DataFile, names: Iterable[str], block: Block) -> Chunk:
        chunk = Chunk({}, len(block.numbers), file.name, block.numbers, "line")
        for name, cells in zip(names, block.columns, strict=True):
            chunk.columns[name] = self._text_column(cells, chunk)
        return chunk

    def _text_column(self, cells: Cells, chunk: Chunk) -> pa.Array:
        try:
            return pa.array(cells, TEXT)
        except UnicodeEncodeError:
            broken = np.array([cell is not None and not _encodable(cell) for cell in cells])
            self.bad.add_rows(broken, lambda i: f"{chunk.where(i)}: not UTF-8")
            kept = [None if bad else cell for cell, bad in zip(cells, broken, strict=True)]
            return pa.array(kept, TEXT)

    def _parquet(self, file: DataFile, columns: Mapping[str, Kind]) -> Iterator[Chunk]:
        options: Any = {"page_checksum_verification": True, "pre_buffer": False}
        with pq.ParquetFile(file.path, **options) as parquet:
            schema = parquet.schema_arrow
            self._note_columns(file, schema.names, columns)
            usable = [n for n, k in columns.items() if self._usable(schema, n, k, file)]
            start = 1
            for batch in self._batches(file.path, parquet, usable, options):
                rows = batch.num_rows
                chunk = Chunk({}, rows, file.name, range(start, start + rows), "row")
                for name, kind in columns.items():
                    column = batch.column(name) if name in usable else pa.nulls(rows, TEXT)
                    if _is_list(column.type):
                        column, several = flatten_lists(column, first_only=kind == "path")
                        self.notes.add(
                            name, "several_paths", several & (kind == "path"), chunk.where
                        )
                    chunk.columns[name] = column if kind == "time" else _as_text(column)
                yield chunk
                start += rows
            promised = parquet.metadata.num_rows
            if usable and start - 1 != promised:
                self.bad.add(f"{file.name}: {start - 1:,} rows, its footer says {promised:,}")

    def _batches(
        self, path: Path, parquet: pq.ParquetFile, columns: list[str], options: Any
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches that fit in memory.

        A dictionary stores each text only once, so a few hundred bytes of file may expand to
        gigabytes.
        """
        kinds = {n: parquet.schema_arrow.field(n).type for n in columns}
        texts = [n for n, k in kinds.items() if _is_string(k) or pa.types.is_dictionary(k)]
        with pq.ParquetFile(path, read_dictionary=texts, **options) as dictionaries:
            for group in range(parquet.num_row_groups):
                probe = dictionaries.iter_batches(1, row_groups=[group], columns=texts)
                first = next(probe, None) if texts else None
                longest = sum(map(_longest, first.columns)) if first else 0
                rows = max(1, min(self.batch_rows, BATCH_BYTES // max(longest, 1)))
                yield from parquet.iter_batches(rows, row_groups=[group], columns=columns)

    def _usable(self, schema: pa.Schema, name: str, kind: Kind, file: DataFile) -> bool:
        if schema.names.count(name) != 1:
            return False
        found = schema.field(name).type
        if _allowed(found, kind):
            return True
        shown = str(found) if len(str(found)) < 200 else f"{str(found)[:200]}..."
        self.wrong_types.setdefault(name, f"{file.name}: column {name!r} is {shown}")
        return False


def is_blank(column: pa.Array) -> np.ndarray:
    """Return which cells of a text column are null, empty or white space, bool [N]."""
    column = column.fill_null("")
    return mask(pc.or_(pc.equal(column, ""), pc.utf8_is_space(column)))


def _encodable(cell: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in cell)


def _allowed(found: pa.DataType, kind: Kind) -> bool:
    types = pa.types
    if types.is_dictionary(found):
        found = found.value_type
    number = types.is_floating(found) or types.is_decimal(found)
    simple = types.is_integer(found) or types.is_null(found) or _is_string(found)
    if kind == "time":
        return simple or number or types.is_timestamp(found) or types.is_date(found)
    listed = _is_list(found) and _is_string(found.value_type)
    return simple or (kind == "text" and number) or (kind in ("text", "path") and listed)


def _is_list(found: pa.DataType) -> bool:
    return pa.types.is_list(found) or pa.types.is_large_list(found)


def _is_string(found: pa.DataType) -> bool:
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(found) for check in (*checks, pa.types.is_binary, pa.types.is_large_binary))


def _longest(column: pa.Array) -> int:
    """Return the bytes of the longest text in a one-row column, judged by its dictionary."""
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    return pc.max(pc.binary_length(texts.cast(pa.large_binary()))).as_py() or 0


def _as_text(column: pa.Array) -> pa.Array:
    column = column.cast(TEXT)
    column.validate(full=True)  # Parquet readers do not check that text is UTF-8
    return column
