"""Vectors of a catalogue that may exceed the memory: in an array, or in a file on disk.

A stage reads the Parquet parts once, in order. It then needs rows in any order, epoch after epoch.
Large matrices are therefore kept in a scratch file, in the precision of the artifact.

Shape suffixes: N items, E components, H appended components, B rows of a batch.
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
"""Rows decoded at a time: 32 MiB at 4,096 float32 components. Larger batches decode no faster."""
DTYPES = {pa.float16(): np.float16, pa.float32(): np.float32}


class Rows(Protocol):
    """The interface of a matrix in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the number of rows and of components."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Return the precision of the components."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | npt.NDArray[np.int64], /) -> np.ndarray: ...


class ItemVectors(NamedTuple):
    """The vectors of all items; row k is item k."""

    matrix_NE: Rows
    """The vectors in the precision of the artifact; rows of items without a vector are zeros."""
    present_N: npt.NDArray[np.bool_]
    """Which items have a vector."""


class ScratchMatrix:
    """A matrix of zeros in an unnamed file on disk, read and written by rows.

    The file has no name, so it disappears with the process, however the process ends. The file is
    read, not memory-mapped: the system maps up to 2 MiB around each accessed page. A batch of
    scattered rows would then count as gigabytes of process memory.

    `matrix[rows]` returns a copy. `rows` is a slice without a step, or an array of row numbers;
    ascending numbers read the file in order. Several threads may read at the same time.

    Raises:
        UserError: the disk has no room for the matrix.
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
        """Return the runs of consecutive rows, each as its first row and its length."""
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
        """Read or write the runs, which are adjacent in the block."""
        view, done = block_BE.reshape(-1).view(np.uint8).data, 0
        for first, count in runs:
            shift = first * self._row_bytes - done  # offset from block to file positions
            end = done + count * self._row_bytes
            while done < end:  # one call moves at most 2 GiB
                done += call(self._descriptor, [view[done:end]], done + shift)


class JoinedRows:
    """A matrix with appended components, which are joined when rows are read.

    Args:
        matrix_NE: the first E components, in memory or on disk.
        scale: factor for the first E components.
        last_NH: the appended components; they are converted to the precision of `matrix_NE`.
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
    """Reserve the disk space now, so that a disk that is too small is detected at once.

    Raises:
        UserError: the disk has no room.
    """
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
    """Return the vectors of an artifact, read once, in batches of bounded size.

    Args:
        artifact: a dataset with a fixed-size-list column of float32 or float16.
        column: name of the column.
        memory_gib: up to this size (GiB) the matrix is an array in memory, else a `ScratchMatrix`.
        folder: folder of the scratch file; None uses the system's folder for temporary files.

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
