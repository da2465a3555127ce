"""Finds the files of a source: one file, a folder of files of one format, or Hive partitions."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote

from components.prepare_data.file_content import Compression, Content, recognise
from components.prepare_data.findings import make_printable
from macrec.core.errors import UserError
from macrec.core.storage.local import walk_files

Format = Literal["csv", "jsonl", "parquet"]

FORMATS: Final[dict[str, Format]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".dat", ".data", ""), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
COMPRESSED: Final = (".gz", ".gzip", ".zst", ".zstd")
NO_PARTITION: Final = "__HIVE_DEFAULT_PARTITION__"
SHOWN: Final = 10


@dataclass(frozen=True)
class DataFile:
    """One file of a source. `name` is its path relative to the parent folder of the source."""

    path: Path
    name: str
    format: Format
    partition: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    compression: Compression = ""
    encoding: str = ""
    """The encoding of the whole file; empty for text in UTF-8, in which other bytes may occur."""

    @property
    def is_tab_separated(self) -> bool:
        """Return whether the name says that cells are separated by tabs."""
        return suffix_of(self.name) in (".tsv", ".tab")


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case, without that of a compression."""
    stem, end = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if end in COMPRESSED else end


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key in which numbers within names count as numbers: day_2 before day_10."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts] + [(0, 0, str(path))]


def _partition_of(folders: Sequence[str]) -> dict[str, str | None]:
    pairs = [folder.partition("=") for folder in folders if "=" in folder]
    return {unquote(k): None if v == NO_PARTITION else unquote(v) for k, _, v in pairs}


def find_files(path: Path, encoding: str = "") -> list[DataFile]:
    """Return the data files of a source in natural order: day_2.csv before day_10.csv.

    Names starting with `.` or `_` are ignored. Every other file is returned or refused. What a file
    contains decides over its name.

    Args:
        path: a file or a folder.
        encoding: the user's encoding of text that is not UTF-8; empty without one.

    Raises:
        UserError: there is nothing at the path, a file cannot be read as data, or there are several
            formats.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder. Check the path.")
    paths = [path]
    if path.is_dir():
        found = (p for p in walk_files(path, follow_links=True) if not _is_hidden(p, path))
        paths = sorted(found, key=natural_key)
    if not paths:
        raise UserError(f"{path.name}: contains no data file. Check the path.")
    files: list[DataFile] = []
    refused: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for file in paths:
        name = make_printable(file.relative_to(path.parent).as_posix())
        if not file.is_file():
            refused.append(f"{name} is a broken link, a pipe or another special file")
            continue
        folders = file.relative_to(path).parts[:-1] if file != path else ()
        partition = _partition_of(folders)
        place = (os.path.realpath(file), str(partition))
        if place in seen:
            refused.append(f"{name} is the same file as {seen[place]}")
            continue
        seen[place] = name
        content = recognise(file, encoding)
        kind = _format_of(file.name, content)
        if content.problem or not kind:
            refused.append(f"{name} {content.problem or 'has no known suffix'}")
            continue
        files.append(DataFile(file, name, kind, partition, content.compression, content.encoding))
    if refused:
        raise UserError(_describe_refused(path.name, refused, len(paths)))
    formats = sorted({file.format for file in files})
    if len(formats) > 1:
        firsts = [next(file.name for file in files if file.format == name) for name in formats]
        pairs = ", ".join(f"{kind}: {name}" for kind, name in zip(formats, firsts, strict=True))
        raise UserError(
            f"{path.name}: files of several formats ({pairs}). Keep one format in a folder."
        )
    return files


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part[0] in "._" for part in path.relative_to(folder).parts)


def _format_of(name: str, content: Content) -> Format | None:
    by_name = FORMATS.get(suffix_of(name))
    if by_name == "parquet":
        return by_name  # a damaged file is reported by its reader
    if content.format == "parquet":
        return "parquet"
    if by_name and content.format == "jsonl":
        return "jsonl"
    return by_name


def _describe_refused(source: str, refused: Sequence[str], files: int) -> str:
    known = ", ".join(name for name in FORMATS if name)
    shown = "; ".join(refused[:SHOWN]) + ("; ..." if len(refused) > SHOWN else "")
    return (
        f"{source}: {len(refused):,} of {files:,} files cannot be read as data: {shown}. Every "
        f"file whose name does not begin with '.' or '_' must be data: {known}, or such a file "
        f"with {', '.join(COMPRESSED)}."
    )
