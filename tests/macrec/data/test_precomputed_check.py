"""Precomputed vectors are checked as the embedding stages read them, in the shop's own ids."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from macrec.core.artifact import Source
from macrec.data.precomputed_check import VectorCheck, check_precomputed

IDS = [f"B{k:03d}" for k in range(2_000)]


def check_file(path: Path, ids: list[str], vectors: list[list[float] | None]) -> VectorCheck:
    kind = pa.list_(pa.float32())
    pq.write_table(pa.table({"item_id": ids, "embedding": pa.array(vectors, kind)}), path)
    return check_precomputed("vectors_text", Source(str(path)), pa.array(IDS, pa.large_string()))


def test_overlap_and_dimension_are_reported(tmp_path: Path) -> None:
    checked = check_file(tmp_path / "v.parquet", ["B001", "B002", "x"], [[1.0, 2], None, [3, 4]])
    assert checked.problems == []
    assert "vectors_text: 1 of 2,000 items" in checked.summary and "2 components" in checked.summary
    (warning,) = checked.warnings
    assert "1 vectors of unknown items" in warning


@pytest.mark.parametrize(
    ("ids", "vectors", "parts"),
    [
        (["x", "y"], [[1.0], [2]], ["none of an item", "B000, B001, B002", "x, y"]),
        (["B001"], [None], ["no row has a vector"]),
        (["B001", "B002"], [[1.0, 2], [1]], ["2 components", "1 others have 1 to 1"]),
        (["B001", "B001"], [[1.0], [2]], ["more than one vector: B001"]),
        (["B001", "B002"], [[1.0], [float("nan")]], ["1 of 2 vectors", "B002 (not_finite)"]),
        (["B001", "B002"], [[1.0], [0]], ["1 of 2 vectors", "B002 (all_zero)"]),
    ],
)
def test_vectors_that_are_refused(
    tmp_path: Path, ids: list[str], vectors: list[list[float] | None], parts: list[str]
) -> None:
    checked = check_file(tmp_path / "v.parquet", ids, vectors)
    (problem,) = checked.problems
    assert problem.startswith(f"vectors_text={tmp_path / 'v.parquet'}: ")
    for part in parts:
        assert part in problem, problem


def test_few_unusable_vectors_are_a_warning_with_the_ids_of_the_shop(tmp_path: Path) -> None:
    vectors: list[list[float] | None] = [[1.0, 2]] * 2_000
    vectors[1_234] = [1.0, float("inf")]
    checked = check_file(tmp_path / "v.parquet", IDS, vectors)
    assert checked.problems == []
    (warning,) = checked.warnings
    assert "1 of 2,000 vectors" in warning and "B1234 (not_finite)" in warning


def test_another_format_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.ones((2, 2)))
    ids = pa.array(IDS)
    (problem,) = check_precomputed("vectors_text", Source(str(tmp_path / "e.npy")), ids).problems
    assert "e.npy" in problem and "Parquet" in problem and "item_id" in problem
