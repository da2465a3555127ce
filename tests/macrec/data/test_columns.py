"""Vectors and codes survive the way through Parquet, nulls included."""

import numpy as np
import pyarrow as pa
import pytest

from macrec.core.artifact import Artifact, DatasetOutput
from macrec.data import columns as arrays
from macrec.data import schema


@pytest.mark.parametrize("limit", [1 << 30, 0])  # in memory, memory-mapped
def test_embeddings_and_codes_survive_nulls(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(arrays, "IN_MEMORY_BYTES", limit)
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    valid = np.array([True, False, True, True])
    codes = np.array([[1, 2], [3, 4], [-1, -1], [5, 6]], np.int32)
    output = DatasetOutput(tmp_path / "x")
    output.prepare()
    with output.dataset(schema.latents(3, 3)) as out:
        columns = {
            "item_index": pa.array(range(4), pa.int32()),
            "text_latent": arrays.vector_column(matrix, valid),
            "image_latent": arrays.vector_column(matrix, np.zeros(4, bool)),
            "text_codes": arrays.codes_column(codes),
            "image_codes": arrays.codes_column(np.full((4, 2), -1)),
        }
        out.write(pa.table(columns))
    output.commit({})
    opened = Artifact.open(tmp_path / "x")
    expected = matrix * valid[:, None]
    np.testing.assert_array_equal(arrays.embedding_matrix(opened, "text_latent"), expected)
    np.testing.assert_array_equal(arrays.valid_rows(opened, "text_latent"), valid)
    assert not arrays.embedding_matrix(opened, "image_latent").any()
    np.testing.assert_array_equal(arrays.codes_matrix(opened, "text_codes"), codes)
    assert arrays.codes_matrix(opened, "image_codes").shape == (4, 0)
