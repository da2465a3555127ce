"""Vectors of a catalogue that may be larger than the memory: in an array, or in a file on disk.

A stage reads the Parquet parts once, in order, and then needs rows in any order, epoch after epoch.
Large matrices therefore wait in a scratch file in the precision of the artifact.

N items, E components, B rows of a batch
"""

import os
import sys
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from macrec.core.artifact import Artifact
from macrec.core.errors import UserError

ROWS_AT_ONCE = 2_048
"""Rows decoded at a time: 32 MiB at 4,096 float32 components; larger batches decode no faster."""
DTYPES = {pa.float16(): np.float16, pa.float32(): np.float32}


class Rows(Protocol):
    """What a matrix in memory and one on disk have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and components."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Precision of the components."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | npt.NDArray[np.int64], /) -> np.ndarray: ...


class ItemVectors(NamedTuple):
    """The vectors of all items; row k is item k."""

    matrix_NE: Rows
    """In the precision of the artifact. Rows of items without a vector are zeros."""
    present_N: npt.NDArray[np.bool_]


class ScratchMatrix:
    """A matrix of zeros in an unnamed file on disk, read and written by rows.

    The file has no name, so that it goes with the process however that ends. It is read, not
    mapped: the system maps up to 2 MiB around a page that is touched, so that one batch of rows
    from all over the file would count as gigabytes of the process. `matrix[rows]` is a copy, for
    an array of row numbers (ascending ones follow the file) or a slice without a step. Threads may
    read at once.

    Raises:
        UserError: the disk has no room for it.
    """

    def __init__(
        self, rows: int, dim: int, dtype: npt.DTypeLike = np.float32, folder: Path | None = None
    ) -> None:
        self.shape, self.dtype = (rows, dim), np.dtype(dtype)
        self._row_bytes = dim * self.dtype.itemsize
        with tempfile.TemporaryFile(prefix="macrec-vectors-", dir=folder) as file:
            _reserve(file.fileno(), rows * self._row_bytes, folder)
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> np.ndarray:
        runs = self._runs(rows)
        taken_BE = np.empty((sum(count for _, count in runs), self.shape[1]), self.dtype)
        self._move(os.preadv, taken_BE, runs)
        return taken_BE

    def __setitem__(self, rows: slice | npt.NDArray[np.int64], values_BE: np.ndarray) -> None:
        runs = self._runs(rows)
        shape = (sum(count for _, count in runs), self.shape[1])
        self._move(os.pwritev, np.ascontiguousarray(values_BE.reshape(shape), self.dtype), runs)

    def _runs(self, rows: slice | npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        """Consecutive rows taken together: the first and how many."""
        if isinstance(rows, slice):
            first, end, step = rows.indices(len(self))
            assert step == 1, "a slice of rows has no step"
            return [(first, max(end - first, 0))]
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a matrix of {len(self)}")
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        counts = np.diff(starts, append=len(rows))
        return list(zip(rows[starts].tolist(), counts.tolist(), strict=True))

    def _move(
        self,
        call: Callable[[int, list[memoryview], int], int],
        block_BE: np.ndarray,
        runs: list[tuple[int, int]],
    ) -> None:
        """Reads or writes the runs, one after the other in the block."""
        view, done = block_BE.reshape(-1).view(np.uint8).data, 0
        for first, count in runs:
            shift = first * self._row_bytes - done  # from a place in the block to one in the file
            end = done + count * self._row_bytes
            while done < end:  # the system moves at most 2 GiB at once
                done += call(self._descriptor, [view[done:end]], done + shift)


class JoinedRows:
    """A matrix with other components after its own, joined when rows are read.

    Args:
        matrix_NE: the first E components, in memory or on disk.
        scale: what they are multiplied by.
        last_NH: the others; they take on the precision of the first.
    """

    def __init__(self, matrix_NE: Rows, scale: float, last_NH: np.ndarray) -> None:
        self._matrix_NE, self._scale = matrix_NE, np.float32(scale)
        self._last_NH = last_NH.astype(matrix_NE.dtype)
        self.shape = (len(matrix_NE), matrix_NE.shape[1] + last_NH.shape[1])
        self.dtype = matrix_NE.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> np.ndarray:
        first_BE = (self._matrix_NE[rows] * self._scale).astype(self.dtype)
        return np.concatenate([first_BE, self._last_NH[rows]], axis=1)


def _reserve(descriptor: int, size: int, folder: Path | None) -> None:
    """Takes the space now, so that a small disk is found out at once."""
    try:
        if sys.platform == "linux":
            os.posix_fallocate(descriptor, 0, max(size, 1))
        else:
            os.truncate(descriptor, size)
    except OSError as error:
        place = folder or tempfile.gettempdir()
        raise UserError(
            f"{place}: no room for {size:,} bytes of vectors ({error.strerror}). "
            "Set TMPDIR to a folder on a larger disk."
        ) from error


def read_vectors(
    artifact: Artifact,
    column: str = "embedding",
    *,
    memory_gib: float = 1.0,
    folder: Path | None = None,
) -> ItemVectors:
    """The vectors of an artifact, read once, a bounded number of rows at a time.

    Args:
        artifact: a dataset with a fixed-size-list column of float32 or float16.
        column: its name.
        memory_gib: up to this size the matrix is an array in memory, else a `ScratchMatrix`.
        folder: where the scratch file lies; the system's folder for temporary files if None.

    Raises:
        UserError: the artifact is damaged, or the disk has no room.
    """
    kind: pa.FixedSizeListType = artifact.schema.field(column).type
    shape, dtype = (artifact.rows, kind.list_size), DTYPES[kind.value_type]
    large = shape[0] * shape[1] * np.dtype(dtype).itemsize > memory_gib * 2**30
    matrix_NE = ScratchMatrix(*shape, dtype, folder) if large else np.zeros(shape, dtype)
    present_N = np.zeros(shape[0], bool)
    start = 0
    for batch in artifact.batches([column], ROWS_AT_ONCE):
        array = batch.column(0)
        rows = start + np.flatnonzero(array.is_valid())
        # flatten leaves null rows out
        matrix_NE[rows] = np.asarray(array.flatten()).reshape(-1, shape[1])
        present_N[rows] = True
        start += len(batch)
    return ItemVectors(matrix_NE, present_N)
