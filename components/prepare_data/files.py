"""Finds the files of a source: one file, a folder of files of one format, or Hive partitions."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast
from urllib.parse import unquote

from macrec.core.errors import UserError

Format = Literal["csv", "jsonl", "parquet"]

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
    ".json": "jsonl",
    ".json.gz": "jsonl",
    ".parquet": "parquet",
}
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class DataFile:
    """One file of a source. `name` is its path relative to the parent folder of the source."""

    path: Path
    name: str
    format: Format
    partition: Mapping[str, str | None]


def _format_of(name: str) -> Format | None:
    lower = name.lower()
    return next((kind for end, kind in SUFFIXES.items() if lower.endswith(end)), None)


def _partition_of(folders: Sequence[str]) -> dict[str, str | None]:
    pairs = [folder.partition("=") for folder in folders if "=" in folder]
    return {unquote(k): None if v == NO_PARTITION else unquote(v) for k, _, v in pairs}


def find_files(path: Path) -> list[DataFile]:
    """Return the data files of a source, sorted by path.

    Names starting with `.` or `_` are ignored.

    Raises:
        UserError: there is nothing at the path, no file of a known format, or several formats.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder. Check the path.")
    if path.is_file():
        paths, known = [path], [path] if _format_of(path.name) else []
    else:
        paths = sorted(Path(top) / name for top, _, names in os.walk(path) for name in names)
        hidden = (".", "_")
        paths = [p for p in paths if not any(x[0] in hidden for x in p.relative_to(path).parts)]
        known = [p for p in paths if _format_of(p.name)]
    if not known:
        found = ", ".join(p.name for p in paths[:3]) or "no file"
        raise UserError(
            f"{path.name}: contains no CSV, JSON lines or Parquet file ({found}). "
            f"The names must end in {', '.join(SUFFIXES)}."
        )
    files: list[DataFile] = []
    for file in known:
        folders = file.relative_to(path).parts[:-1] if file != path else ()
        name = file.relative_to(path.parent).as_posix()
        kind = cast(Format, _format_of(file.name))
        files.append(DataFile(file, name, kind, _partition_of(folders)))
    formats = sorted({file.format for file in files})
    if len(formats) > 1:
        raise UserError(
            f"{path.name}: files of several formats ({', '.join(formats)}). "
            "Keep one format in a folder."
        )
    return files
