"""Reports problems that any source can have: bad lines, no rows, bad or missing columns."""

import difflib
from collections.abc import Iterable, Iterator, Mapping

from components.prepare_data.readers import Reader

# What setting the column to "" means.
WITHOUT = {
    "image_column": "there are no pictures",
    "timestamp_column": "the order of the rows is the order in time",
}


def missing_column(where: str, setting: str, name: str, columns: Iterable[str]) -> str:
    """Return a message about an absent column, with the nearest column and what to set."""
    named = f"prepare_data.{setting}"
    found = sorted(columns)
    by_lower = {column.lower(): column for column in found}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    message = f"{where}: no column {name!r} ({setting}). "
    if near:
        return f"{message}The nearest is {by_lower[near[0]]!r}: set {named}={by_lower[near[0]]}."
    listed = ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
    message += f"It has {listed or 'no column'}: set {named} to the right one."
    if setting in WITHOUT:
        message += f' Set {setting}="" if {WITHOUT[setting]}.'
    return message


def source_problems(
    reader: Reader, rows: int, settings: Mapping[str, str], optional: set[str]
) -> Iterator[str]:
    """Yield the problems that any source can have, after a full pass.

    Args:
        reader: the reader that made the pass.
        rows: number of rows it returned.
        settings: the setting that names each requested column.
        optional: columns that may be absent.
    """
    if reader.bad.count:
        yield (
            f"{reader.name}: {reader.bad.count:,} lines or files cannot be read "
            f"(first: {'; '.join(reader.bad.first)}). Correct or remove them."
        )
    if rows == 0:
        if not reader.bad.count:
            yield f"{reader.name}: holds no rows. Check the path and the export that wrote it."
        if not reader.seen:
            return
    for name, setting in settings.items():
        if name in reader.wrong_types:
            yield f"{reader.wrong_types[name]}, which {setting} cannot be. Cast it to text."
        elif name not in reader.seen and name not in optional:
            yield missing_column(reader.name, setting, name, reader.seen)
        elif name not in optional and (files := reader.lacking.get(name)):
            shown = ", ".join(files[:3])
            yield (
                f"{reader.name}: {len(files):,} of {len(reader.files):,} files have no column "
                f"{name!r} ({setting}; first: {shown}). Give all files the same columns."
            )
