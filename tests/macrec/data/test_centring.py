import numpy as np
import pytest

from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import UserError
from macrec.data import schema
from macrec.data.centring import read_mean, read_quantizer_means
from macrec.data.embeddings import Vectors, write_vectors
from tests.artifacts import dataset


def embedded(path, *, centre):
    output = DatasetOutput(path)
    output.prepare()
    matrix_ND = np.array([[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]], np.float32)
    status = np.array(["ok", "ok", "missing"], object)
    columns = [[0, 1, 2], ["a", "b", "c"], [""] * 3, [""] * 3, [None] * 3, [False] * 3]
    items = dataset(path.with_name("items"), schema.ITEMS, columns)
    chunks = [Vectors(matrix_ND, status)]
    write_vectors(output, chunks, items, dim=2, centre=centre, remedy="")
    output.commit({})
    return Artifact.open(path)


def test_what_was_subtracted_is_kept_beside_the_vectors(tmp_path):
    artifact = embedded(tmp_path, centre=True)
    assert read_mean(artifact).tolist() == [2.0, 4.0]
    assert artifact.table(["embedding"]).column(0).to_pylist() == [[-1, -2], [1, 2], None]


def test_nothing_was_subtracted(tmp_path):
    assert read_mean(embedded(tmp_path, centre=False)).tolist() == [0.0, 0.0]


def test_a_folder_that_does_not_tell_is_refused(tmp_path):
    with pytest.raises(UserError, match="mean that was subtracted from its vectors is unknown"):
        read_quantizer_means(embedded(tmp_path, centre=False))
