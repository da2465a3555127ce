"""Counts the problems of an input and keeps examples for messages."""

from __future__ import annotations

from collections.abc import Callable
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

    @property
    def examples(self) -> str:
        """The first cases in brackets."""
        return f"(first: {', '.join(self.first)})"


def mask(array: pa.Array) -> np.ndarray:
    """Return a boolean Arrow column as a NumPy array; null becomes false."""
    return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), bool)
