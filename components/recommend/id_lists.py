"""Reads lists of ids from the user: users to recommend for, and items that may be recommended."""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from pyarrow import csv

from macrec.core.artifact import Source
from macrec.core.errors import UserError, check
from macrec.core.progress import log

pc: Any = pyarrow.compute  # its functions are created at import, so type checkers cannot see them

Format = Literal["parquet", "csv", "json", "text"]
FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".txt": "text",
}
SHOWN = 5


def read_ids(source: Source, column: str) -> pa.Array:
    """Return the ids of a list, each once, in order; numbers become text, nulls are skipped.

    Args:
        source: one file, or a folder of files that form one list.
        column: the column or key that contains the ids in Parquet, CSV and JSON lines.

    Raises:
        UserError: the list cannot be read, lacks the column, or is empty.
    """
    path = source.path()
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] not in "._")
    try:
        parts = [part.cast(pa.string()) for file in files for part in _read(file, column)]
        given = pa.chunked_array(parts, pa.string()).combine_chunks()
        given.validate(full=True)  # Parquet readers do not check that text is UTF-8
    except (pa.ArrowInvalid, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise UserError(
            f"{source.uri}: cannot be read ({' '.join(str(error).split())})."
        ) from error
    ids = given.filter(pc.not_equal(given, "")).unique()  # nulls are dropped as well
    check(
        len(ids) > 0,
        f"{source.uri}: the list contains no {column}. Correct it, or omit the list to use all.",
    )
    return ids


def _read(file: Path, column: str) -> Iterator[pa.Array]:
    name = file.name.lower().removesuffix(".gz")
    kind = FORMATS.get(Path(name).suffix)
    if kind is None:
        raise UserError(f"{file}: not a list of ids. Its name must end in {', '.join(FORMATS)}.")
    if kind == "parquet":
        yield from _parquet(file, column)
    elif kind == "csv":
        yield from _csv(file, column)
    else:
        opener: Any = gzip.open if file.name.lower().endswith(".gz") else open
        with opener(file, "rt", encoding="utf-8-sig", newline="\n") as stream:
            lines = (line.rstrip("\r\n") for line in stream)
            yield pa.array(
                _read_json(file, lines, column) if kind == "json" else lines, pa.string()
            )


def _parquet(file: Path, column: str) -> Iterator[pa.Array]:
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        schema = parquet.schema_arrow
        _check_column(file, column, schema.names)
        found = schema.field(column).type
        plain = found.value_type if pa.types.is_dictionary(found) else found
        usable = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
        check(
            any(of_type(plain) for of_type in usable),
            f"{file}: column {column!r} is {found}. Cast it to text or whole numbers.",
        )
        for batch in parquet.iter_batches(columns=[column]):
            ids = batch.column(0)
            yield ids.dictionary_decode() if pa.types.is_dictionary(found) else ids


def _csv(file: Path, column: str) -> Iterator[pa.Array]:
    with csv.open_csv(file) as head:
        names = head.schema.names
    _check_column(file, column, names)
    # Ids are always read as text: 007 keeps its zeros and NA is an id.
    only = csv.ConvertOptions(include_columns=[column], column_types={column: pa.string()})
    with csv.open_csv(file, convert_options=only) as reader:
        yield from (batch.column(0) for batch in reader)


def _check_column(file: Path, column: str, names: Sequence[str]) -> None:
    hint = "Write a .txt file with one id a line, or name the column so."
    check(column in names, f"{file}: no column {column!r}; it has {', '.join(names)}. {hint}")
    check(names.count(column) == 1, f"{file}: several columns {column!r}. Keep one.")


def _read_json(file: Path, lines: Iterable[str], column: str) -> Iterator[str | None]:
    """Yield the ids of lines that contain an object with the key, or the bare id."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue

        def refuse(reason: str, number: int = number) -> NoReturn:
            raise UserError(
                f"{file} line {number:,}: {reason}. Write one id per line, or one object with the "
                f"key {column!r}."
            )

        try:
            value = json.loads(line)
        except ValueError as error:
            refuse(f"no JSON ({error})")
        if isinstance(value, dict):
            if column not in value:
                refuse(f"no key {column!r}")
            value = value[column]
        if not (value is None or type(value) in (str, int)):
            refuse(f"{json.dumps(value)[:40]} is no id")
        yield None if value is None else str(value)


def warn_of_unknown(source: Source, listed: pa.Array, known_L: np.ndarray, what: str) -> int:
    """Log the first ids of a list that are not known, and return how many there are.

    Raises:
        UserError: none of the ids is known.
    """
    unknown = listed.filter(pa.array(~known_L))
    if not len(unknown):
        return 0
    problem = (
        f"{source.uri}: {len(unknown):,} of {len(listed):,} ids are no {what} of this run "
        f"(first: {', '.join(unknown[:SHOWN].to_pylist())})"
    )
    check(len(unknown) < len(listed), f"{problem}. Compare the ids; they are compared as text.")
    log.warning("%s and are left out", problem)
    return len(unknown)
