"""Counting what is wrong with an input, and saying it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

if TYPE_CHECKING:
    from components.prepare_data.readers import Reader

FIRST = 10
pc: Any = pyarrow.compute  # its functions are made on import, unseen by a type checker

# What it means to have no such column.
WITHOUT = {
    "image_column": "there are no pictures",
    "timestamp_column": "the order of the rows is the order in time",
}


@dataclass
class Tally:
    """How often something was met, and the first few examples of it."""

    count: int = 0
    first: list[str] = field(default_factory=list[str])

    def add(self, example: str) -> None:
        """Counts one case."""
        self.count += 1
        if len(self.first) < FIRST:
            self.first.append(example)

    def add_rows(self, rows: np.ndarray, describe: Callable[[int], str]) -> None:
        """Counts the true rows of a mask; `describe` names a row by its position."""
        self.count += int(np.count_nonzero(rows))
        if len(self.first) < FIRST:
            shown = np.flatnonzero(rows)[: FIRST - len(self.first)]
            self.first += [describe(int(row)) for row in shown]

    @property
    def examples(self) -> str:
        """The first cases in brackets."""
        return f"(first: {', '.join(self.first)})"


def mask(array: pa.Array) -> np.ndarray:
    """A boolean Arrow column as numpy; null counts as false."""
    return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), bool)


def missing_column(where: str, setting: str, name: str, columns: Iterable[str]) -> str:
    """Says that a column is absent, which one is nearest, and which flag names it."""
    flag = "--" + setting.replace("_", "-")
    found = sorted(columns)
    by_lower = {column.lower(): column for column in found}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    message = f"{where}: no column {name!r} ({setting}). "
    if near:
        return f"{message}The nearest is {by_lower[near[0]]!r}: set {flag} {by_lower[near[0]]}."
    listed = ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
    message += f"It has {listed or 'no column'}: name the right one with {flag}."
    if setting in WITHOUT:
        message += f' Set {setting}="" if {WITHOUT[setting]}.'
    return message


def source_problems(
    reader: Reader, rows: int, settings: Mapping[str, str], optional: set[str]
) -> Iterator[str]:
    """What is wrong with a source whatever its meaning, after a full pass.

    Args:
        reader: the reader that made the pass.
        rows: how many rows it gave.
        settings: which setting names each wanted column.
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
