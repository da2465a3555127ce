"""Counting what is wrong with an input, and saying it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

FIRST = 10
pc: Any = pyarrow.compute  # its functions are made on import, unseen by a type checker


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
