"""Recognises what a data file contains from its first bytes, whatever its name says."""

import codecs
import gzip
import json
import re
import zlib
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TextIO

import pyarrow as pa

Compression = Literal["", "gzip", "zstd"]
TextFormat = Literal["csv", "jsonl"]

HEAD: Final = 1 << 16  # bytes
PARQUET: Final = b"PAR1"
COMPRESSIONS: Final[dict[bytes, Compression]] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
}
BYTE_ORDER_MARKS: Final = {  # that of UTF-32 first, because it begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
UNREADABLE: Final = {
    # Python's readers of these two end silently at damage between two streams.
    b"BZh": ("compressed with bzip2", "Decompress it, or use gzip or Zstandard"),
    b"\xfd7zXZ\x00": ("compressed with xz", "Decompress it, or use gzip or Zstandard"),
    b"PK\x03\x04": ("an Excel workbook or a zip archive", "Export it as CSV, or unpack it"),
    b"PK\x05\x06": ("an empty zip archive", "Remove it"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "Export it as CSV"),
    b"ARROW1": ("an Arrow or Feather file", "Write it as Parquet"),
    b"ORC": ("an ORC file", "Write it as Parquet"),
    b"Obj\x01": ("an Avro file", "Write it as Parquet"),
    b"SQLite format 3": ("an SQLite database", "Export its table as CSV"),
    b"\x89HDF": ("an HDF5 file", "Write it as Parquet"),
    b"\x80\x04": ("a Python pickle, which is never opened", "Write it as Parquet"),
    b"\x80\x05": ("a Python pickle, which is never opened", "Write it as Parquet"),
    b"\x93NUMPY": ("a NumPy file", "Write it as Parquet"),
    b"%PDF": ("a PDF document", "Remove it"),
    b"<?xml": ("an XML document", "Export it as CSV"),
    b"<!DOCTYPE html": ("a web page, such as that of a login", "Download the data again"),
    b"<html": ("a web page, such as that of a login", "Download the data again"),
}
JSON_LINES: Final = "Write one JSON object per line"
DAMAGED: Final = (EOFError, zlib.error)


class Content(NamedTuple):
    """What a file contains."""

    format: TextFormat | Literal["parquet", ""]
    """Empty for a text whose format the name must decide."""
    compression: Compression = ""
    encoding: str = ""
    """The encoding of the whole file, by its byte order mark or by the user's setting; empty for
    text in UTF-8, in which other bytes may occur."""
    problem: str = ""
    """Why the file cannot be read, and what to do; empty for a file that can."""


def contains_ascii(encoding: str) -> bool:
    """Return whether text in ASCII has the same bytes in an encoding."""
    return "ascii".encode(encoding) == b"ascii"


def recognise(path: Path, encoding: str = "") -> Content:
    """Return what a file contains; a damaged file counts as a text, whose reader then reports it.

    Args:
        path: the file.
        encoding: the user's setting; one that does not contain ASCII is that of the whole file.

    Raises:
        OSError: the file cannot be opened.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    marks = (mark for mark in COMPRESSIONS if head.startswith(mark))
    compression: Compression = COMPRESSIONS.get(next(marks, b""), "")
    if compression:
        try:
            with open_bytes(path, compression) as stream:
                head = stream.read(HEAD)
        except (*DAMAGED, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise
            return Content("", compression)
    if head.startswith(PARQUET):
        if compression:
            return Content("", problem="is compressed Parquet. Decompress it")
        return Content("parquet")
    for mark, (what, remedy) in UNREADABLE.items():
        if head[: len(mark)].lower() == mark.lower():
            return Content("", problem=f"is {what}. {remedy}")
    whole = next((e for mark, e in BYTE_ORDER_MARKS.items() if head.startswith(mark)), "")
    is_wide = len(head) > 1 and head.count(0) >= 0.3 * len(head)
    if not whole and encoding and not contains_ascii(encoding):
        # A file in UTF-8 beside one in UTF-16 stays what it is.
        whole = encoding if is_wide or not encoding.lower().startswith(("utf-16", "utf-32")) else ""
    if not whole and is_wide:
        order = "be" if head[0] == 0 else "le"
        remedy = f"If it is text in UTF-16, set prepare_data.encoding=utf-16-{order}"
        return Content("", problem=f"is not text in UTF-8. {remedy}")
    text = head.decode(whole or "utf-8", errors="replace").lstrip()
    return _recognise_text(text, len(head) == HEAD)._replace(
        compression=compression, encoding=whole
    )


def _recognise_text(text: str, is_cut: bool) -> Content:
    """Return whether a text is JSON lines, or another notation of records."""
    if re.match(r"\[\s*[{\[]", text):  # a CSV header may begin with a bracket too
        return Content("", problem=f"is a JSON array. {JSON_LINES}")
    if not text.startswith("{"):
        return Content("")
    first, _, rest = text.partition("\n")
    if re.match(r"\{\s*u?'", first):
        return Content("", problem=f"contains Python dicts, not JSON. {JSON_LINES} (json.dumps)")
    if is_cut and not rest:
        # The only line is longer than what was read.
        is_map = re.match(r'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{', first) is not None
    else:
        try:
            record = json.loads(first)
        except (ValueError, RecursionError):
            # Either a record over several lines, or a damaged line that the reader reports.
            if re.match(r"\{\s*$", first):
                return Content("", problem=f"is one JSON document over several lines. {JSON_LINES}")
            return Content("jsonl")
        is_map = (
            not rest.strip()
            and len(record) > 1
            and all(isinstance(v, dict) for v in record.values())
        )
    if is_map:
        return Content("", problem=f"is one JSON object that maps ids to records. {JSON_LINES}")
    return Content("jsonl")


def open_bytes(path: Path, compression: Compression) -> Any:
    """Open a file and decompress it."""
    if compression == "zstd":
        return pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd")
    return gzip.open(path, "rb") if compression else path.open("rb")


def open_text(path: Path, compression: Compression, encoding: str, newline: str) -> TextIO:
    """Open a text file.

    Args:
        path: the file.
        compression: how it is compressed.
        encoding: encoding of the bytes that are not UTF-8; empty means that there are none. One
            that does not contain ASCII, such as UTF-16, is the encoding of the whole file.
        newline: as in `open`.
    """
    stream = open_bytes(path, compression)
    # Invalid bytes become lone surrogates, which Arrow rejects; the line can then be reported.
    errors = "surrogateescape"
    if encoding and contains_ascii(encoding) and codecs.lookup(encoding).name != "utf-8":
        errors, encoding = _decode_invalid_by(encoding), "utf-8-sig"
    return TextIOWrapper(stream, encoding or "utf-8-sig", errors=errors, newline=newline)


def _decode_invalid_by(encoding: str) -> str:
    """Return the name of an error handler that decodes bytes that are not UTF-8.

    So one setting serves a catalogue in cp1252 and a log in UTF-8.
    """

    def decode(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        invalid = error.object[error.start : error.end]
        return invalid.decode(encoding, "surrogateescape"), error.end

    name = f"macrec-{encoding}"
    codecs.register_error(name, decode)
    return name
