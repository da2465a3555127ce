"""Reports problems that any source can have: bad lines, no rows, bad or missing columns."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping

from components.prepare_data.readers import Reader

# What setting the column to "" means.
WITHOUT = {
    "image_column": "there are no pictures",
    "timestamp_column": "the order of the rows is the order in time",
}


FILES_SHOWN = 100
OF_LOG = ("user_id_column", "interaction_item_column", "timestamp_column", "rating_column")


def _shown(column: str) -> str:
    """Return a column name for a message: cut, and without what a terminal would interpret."""
    return "".join(c if c.isprintable() else "?" for c in column[:60])


def missing_column(where: str, setting: str, name: str, columns: Iterable[str]) -> str:
    """Return a message about an absent column, with the nearest column and what to set."""
    named = f"prepare_data.{setting}"
    found = sorted(columns)
    message = f"{where}: no column {name!r} ({setting}). "
    if near := nearest_column(name, found):
        return f"{message}The nearest is {near!r}: set {named}={near}."
    listed = ", ".join(map(_shown, found[:20])) + (", ..." if len(found) > 20 else "")
    message += f"It has {listed or 'no column'}: set {named} to the right one."
    if any(re.fullmatch(r"-?\d+([.,]\d+)?", column.strip()) for column in found):
        names = "log_columns" if setting in OF_LOG else "catalog_columns"
        message += (
            f" If the first line is no header, set prepare_data.{names} to the columns' names."
        )
    if sum(not column for column in found) or len(found) == 1:
        message += " If lines stand above the header, remove them."
    if setting in WITHOUT:
        message += f" Set {named}= if {WITHOUT[setting]}."
    return message


def describe_unused(reader: Reader, used: Iterable[str]) -> str:
    """Return a line about the columns that no setting names; empty if there are none."""
    unused = sorted(reader.seen - set(used))
    if not unused:
        return ""
    listed = ", ".join(map(_shown, unused[:20])) + (", ..." if len(unused) > 20 else "")
    return f"{reader.name}: columns that are not used: {listed}"


def warn_of_empty_files(reader: Reader) -> Iterator[str]:
    """Yield a warning if files of a source have no rows, but others have some."""
    empty = [name for name, rows in reader.rows_by_file.items() if not rows]
    if 0 < len(empty) < len(reader.rows_by_file):
        shown = ", ".join(empty[:3])
        yield f"{reader.name}: {len(empty):,} files have no rows (first: {shown})."


def describe_files(reader: Reader) -> list[str]:
    """Return a line for each file of a source, in the order of reading, after a full pass.

    Of more than FILES_SHOWN files the rest is one line.
    """
    lines: list[str] = []
    files = list(reader.rows_by_file.items())
    for name, rows in files[:FILES_SHOWN]:
        delimiter = reader.delimiters.get(name, ",")
        cells = "" if delimiter == "," else f", cells separated by {delimiter!r}"
        lines.append(f"{name}: {rows:,} rows{cells}")
    if rest := files[FILES_SHOWN:]:
        total = sum(rows for _, rows in rest)
        lines.append(f"{rest[0][0]} to {rest[-1][0]}: {len(rest):,} files, {total:,} rows")
    return lines


def nearest_column(name: str, columns: Iterable[str]) -> str:
    """Return the column whose name is most similar, or an empty string if none is similar."""
    by_lower = {column.lower(): column for column in sorted(columns)}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else ""


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
            f"(first: {'; '.join(reader.bad.first)}). Correct or remove them.{_advice(reader)}"
        )
    if rows == 0:
        if not reader.bad.count:
            yield f"{reader.name}: holds no rows. Check the path and the export that wrote it."
        if not reader.seen:
            return
    for name, setting in settings.items():
        if name in reader.wrong_types:
            yield f"{reader.wrong_types[name]}, which {setting} cannot be. {_cast(reader, name)}"
        elif name not in reader.seen and name not in optional:
            yield missing_column(reader.name, setting, name, reader.seen)
        elif name not in optional and (files := reader.lacking.get(name)):
            shown = ", ".join(files[:3])
            yield (
                f"{reader.name}: {len(files):,} of {len(reader.files):,} files have no column "
                f"{name!r} ({setting}; first: {shown}). Give all files the same columns."
            )


def _advice(reader: Reader) -> str:
    """Return a setting that may make the unreadable lines readable, or an empty text."""
    reasons = " ".join(reader.bad.first)
    if "fields, the header has" in reasons:
        used = ", ".join(sorted({repr(d) for d in reader.delimiters.values()}))
        return (
            f" If {used} is not the delimiter, set prepare_data.delimiter. If lines stand above "
            "the header, remove them."
        )
    if "not UTF-8" in reasons:
        return " If the file is not UTF-8, set prepare_data.encoding, such as cp1252."
    if "expected after" in reasons:  # csv: a character follows a closing quote
        return " If cells are never quoted, set prepare_data.quote_character=''."
    return ""


def _cast(reader: Reader, name: str) -> str:
    """Return how to correct the type of a column."""
    found = reader.wrong_types[name].rpartition(" is ")[2]
    if found.startswith(("double", "float", "halffloat", "decimal")):
        return (
            "Cast it to whole numbers (in pandas: .astype('Int64')). A cast to text would give the "
            "id '4.0' in place of '4'."
        )
    return "Cast it to text."
