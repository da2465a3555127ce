"""Counts the problems of an input and keeps examples for messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

FIRST = 10
pc: Any = pyarrow.compute  # its functions are created at import, so type checkers cannot see them


@dataclass
class Tally:
    """A count of cases and the first few examples."""

    count: int = 0
    first: list[str] = field(default_factory=list[str])

    def add(self, example: str) -> None:
        """Count one case."""
        self.count += 1
        if len(self.first) < FIRST:
            self.first.append(example)

    def add_rows(self, rows: np.ndarray, describe: Callable[[int], str]) -> None:
        """Count the true rows of a mask; `describe` returns the text for a row position."""
        self.count += int(np.count_nonzero(rows))
        if len(self.first) < FIRST:
            shown = np.flatnonzero(rows)[: FIRST - len(self.first)]
            self.first += [describe(int(row)) for row in shown]

    def __add__(self, other: Tally) -> Tally:
        """Return the cases of both; the examples of `self` come first."""
        return Tally(self.count + other.count, [*self.first, *other.first][:FIRST])

    @property
    def examples(self) -> str:
        """The first cases in brackets."""
        return f"(first: {', '.join(self.first)})"

    @property
    def few_examples(self) -> str:
        """The first three cases in brackets, for cases that a reader does not correct by hand."""
        return f"(first: {', '.join(self.first[:3])})"


NOTES = {
    "list": "cells contain a list, whose texts are joined",
    "several_paths": "items name several pictures, of which the first is used",
    "unparsed_list": "cells look like a list, but cannot be parsed and stay as they are",
    "null_text": "cells contain a word for a missing value, such as NULL, and stay as they are",
    "markup": "cells contain HTML, which was removed (prepare_data.keep_markup=true keeps it)",
    "garbled": "cells look as if their file was decoded with a wrong encoding",
    "long": "cells have more than 100,000 characters",
}


class Notes:
    """Suspicious cells of a source, counted by column and kind."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}
        self.lost_quote = Tally()
        """Cells that may have swallowed the end of their row."""

    def add(self, column: str, kind: str, rows: np.ndarray, where: Callable[[int], str]) -> None:
        """Count the true rows of a mask as notes of a kind, which is a key of NOTES."""
        if rows.any():
            self._tallies.setdefault((column, kind), Tally()).add_rows(rows, where)

    def warnings(self, source: str, settings: Mapping[str, str]) -> Iterator[str]:
        """Yield a sentence for each column and kind.

        Args:
            source: name of the source.
            settings: the setting that names each column.
        """
        if self.lost_quote.count:
            yield (
                f"{source}: {self.lost_quote.count:,} cells contain the end of one row and the "
                f"beginning of another {self.lost_quote.examples}. A closing quote seems to be "
                "missing: the rows in between are lost. Correct these lines, or set "
                "prepare_data.quote_character='' if cells are not quoted."
            )
        for (column, kind), tally in self._tallies.items():
            yield (
                f"{source}: {tally.count:,} {NOTES[kind]}: column {column!r} ({settings[column]}) "
                f"{tally.few_examples}."
            )


LONGEST_MESSAGE = 4_000


def make_printable(text: str) -> str:
    """Return a text for a terminal: without control characters, and of limited length."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:LONGEST_MESSAGE])
    return shown + "..." * (len(text) > LONGEST_MESSAGE)


def mask(array: pa.Array) -> np.ndarray:
    """Return a boolean Arrow column as a NumPy array; null becomes false."""
    return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), bool)
