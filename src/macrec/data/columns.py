"""Conversion of columns of vectors and of codes to numpy arrays, and back.

Shape suffixes: N items, D components, L levels.
"""

import tempfile

import numpy as np
import pyarrow as pa

from macrec.core.artifact import Artifact
from macrec.data.vectors import ROWS_AT_ONCE

IN_MEMORY_BYTES = 1 << 30


def embedding_matrix(artifact: Artifact, column: str = "embedding") -> np.ndarray:
    """Return a fixed-size-list column as float32 [N, D]; null rows are zeros (see `valid_rows`).

    Above 1 GiB the matrix is memory-mapped from an unnamed temporary file.
    """
    dim = artifact.schema.field(column).type.list_size
    shape = (artifact.rows, dim)
    if artifact.rows * dim * 4 > IN_MEMORY_BYTES:
        with tempfile.TemporaryFile() as file:
            matrix: np.ndarray = np.memmap(file, np.float32, "w+", shape=shape)
    else:
        matrix = np.zeros(shape, np.float32)
    start = 0
    for batch in artifact.batches([column], ROWS_AT_ONCE):
        array = batch.column(0)
        valid = np.asarray(array.is_valid())
        values = np.asarray(array.flatten()).reshape(-1, dim)  # flatten leaves null rows out
        matrix[start : start + len(batch)][valid] = values
        start += len(batch)
    return matrix


def valid_rows(artifact: Artifact, column: str = "embedding") -> np.ndarray:
    """Return which rows of a column are not null, bool [N]."""
    masks = [np.asarray(b.column(0).is_valid()) for b in artifact.batches([column])]
    return np.concatenate(masks) if masks else np.zeros(0, bool)


def codes_matrix(artifact: Artifact, column: str) -> np.ndarray:
    """Return a list column of codes as int32 [N, L]; null rows are -1. Without codes, L is 0."""
    array = artifact.table([column]).column(0).combine_chunks()
    valid = np.asarray(array.is_valid())
    values = np.asarray(array.flatten()).astype(np.int32)
    levels = len(values) // int(valid.sum()) if valid.any() else 0
    codes = np.full((len(array), levels), -1, np.int32)
    codes[valid] = values.reshape(-1, levels) if levels else codes[valid]
    return codes


def codes_column(codes_NL: np.ndarray) -> pa.Array:
    """Return a matrix of codes as a list column; rows of -1 become null (see `codes_matrix`)."""
    valid = (codes_NL >= 0).all(1) if codes_NL.shape[1] else np.zeros(len(codes_NL), bool)
    lengths = np.where(valid, codes_NL.shape[1], 0)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    values = pa.array(codes_NL[valid].astype(np.int16).ravel())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(~valid))


def vector_column(matrix_ND: np.ndarray, valid_N: np.ndarray) -> pa.Array:
    """Return a matrix as a fixed-size-list column of float32; invalid rows become null.

    A float16 matrix gives a column of float16.
    """
    dtype = np.float16 if matrix_ND.dtype == np.float16 else np.float32
    values = pa.array(np.ascontiguousarray(matrix_ND, dtype).ravel())
    mask = pa.array(~np.asarray(valid_N, bool))
    return pa.FixedSizeListArray.from_arrays(values, matrix_ND.shape[1], mask=mask)
