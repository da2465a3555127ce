"""Vectors come back exactly, from memory and from disk, in the precision they were stored in."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import UserError
from macrec.data import embeddings, schema, vectors
from macrec.data.columns import vector_column
from macrec.data.vectors import ScratchMatrix, read_vectors
from tests.artifacts import dataset

ITEMS, DIM = 50, 3
PRESENT = np.arange(ITEMS) % 7 != 2
KINDS = {np.float16: pa.float16(), np.float32: pa.float32()}


def written(path: Path, dtype: type) -> tuple[Artifact, np.ndarray]:
    matrix = np.random.default_rng(0).standard_normal((ITEMS, DIM)).astype(dtype)
    index = pa.array(range(ITEMS), pa.int32())
    columns = [index, vector_column(matrix, PRESENT), pa.array(["ok"] * ITEMS)]
    kind = schema.embeddings(DIM, KINDS[dtype])
    return dataset(path, kind, columns), matrix * PRESENT[:, None]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
def test_vectors_are_read_back(tmp_path, monkeypatch, dtype, memory_gib):
    monkeypatch.setattr(vectors, "ROWS_AT_ONCE", 8)  # several batches, the last one shorter
    artifact, expected = written(tmp_path / "a", dtype)
    found = read_vectors(artifact, memory_gib=memory_gib, folder=tmp_path)
    assert isinstance(found.matrix_NE, ScratchMatrix) == (memory_gib == 0)
    assert found.matrix_NE.dtype == dtype and found.matrix_NE.shape == expected.shape
    np.testing.assert_array_equal(found.present_N, PRESENT)
    np.testing.assert_array_equal(found.matrix_NE[:], expected)


@pytest.mark.parametrize(
    "rows", [[3, 4, 5, 9], [9, 3, 3, 0], [], range(20), slice(2, 7), slice(18, 99), slice(4, 2)]
)
def test_rows_of_a_scratch_matrix(tmp_path, rows):
    matrix, expected = ScratchMatrix(20, 5, np.float32, tmp_path), np.zeros((20, 5), np.float32)
    values = np.arange(100, dtype=np.float32).reshape(20, 5)
    which = rows if isinstance(rows, slice) else np.array(rows, np.int64)
    for target in (matrix, expected):
        target[::1] = values
        target[which] = -values[which]
    np.testing.assert_array_equal(matrix[which], expected[which])
    np.testing.assert_array_equal(matrix[:], expected)
    assert len(matrix) == 20


@pytest.mark.parametrize("row", [-1, 20])
def test_rows_that_are_not_there(tmp_path, row):
    with pytest.raises(IndexError):
        ScratchMatrix(20, 5, folder=tmp_path)[np.array([0, row])]


def test_the_scratch_file_has_no_name_and_is_closed(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    matrix = ScratchMatrix(20, 5, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del matrix
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_disk_without_room_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"no room for .* bytes of vectors .*TMPDIR"):
        ScratchMatrix(1 << 40, 1 << 10, folder=tmp_path)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("centre", [True, False])
def test_given_vectors_keep_their_precision(tmp_path, dtype, centre):
    matrix = np.random.default_rng(0).standard_normal((ITEMS, DIM)).astype(dtype)
    order = np.random.default_rng(1).permutation(ITEMS)[:-1]  # one item has no vector
    column = vector_column(matrix[order], np.ones(ITEMS - 1, bool))
    ids = pa.array([f"i{k}" for k in order])
    pq.write_table(pa.table({"item_id": ids, "embedding": column}), tmp_path / "given.parquet")
    item_ids = pa.schema([pa.field("item_id", pa.string(), nullable=False)])
    items = dataset(tmp_path / "items", item_ids, [[f"i{k}" for k in range(ITEMS)]])
    output = DatasetOutput(tmp_path / "out")
    output.prepare()
    source = Source(str(tmp_path / "given.parquet"))
    embeddings.write_precomputed(source, items, output, centre=centre)
    output.commit({})
    found = read_vectors(Artifact.open(tmp_path / "out"))
    assert found.matrix_NE.dtype == dtype
    assert set(np.flatnonzero(found.present_N)) == set(order)
    mean = matrix[order].astype(np.float32).mean(0) if centre else 0
    expected = matrix[order].astype(np.float32) - mean
    tolerance = 1e-2 if centre and dtype == np.float16 else 1e-6
    np.testing.assert_allclose(found.matrix_NE[order], expected, atol=tolerance)


def test_what_is_read_does_not_stay_in_memory(tmp_path):
    """A file of many row groups: no more than a few of them are held at once."""
    groups, rows, dim = 24, 1024, 256
    kind = schema.embeddings(dim)
    output = DatasetOutput(tmp_path / "a")
    output.prepare()
    with output.dataset(kind) as out:
        for start in range(0, groups * rows, rows):
            index = pa.array(range(start, start + rows), pa.int32())
            noise = np.random.default_rng(start).standard_normal((rows, dim), dtype=np.float32)
            columns = [index, vector_column(noise, np.ones(rows, bool)), pa.array(["ok"] * rows)]
            out.write(pa.table(columns, schema=kind))
    output.commit({})
    artifact, before = Artifact.open(tmp_path / "a"), pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in artifact.batches(["embedding"], rows)]
    assert len(held) == groups and max(held) < 8 * rows * dim * 4
