"""Where the vectors of a converted data set come from."""

import pytest

from benchmarks.data.amazon import vectors_of
from macrec.core.errors import UserError


def test_given_vectors_come_before_encoders_and_one_of_them_must_be_there(tmp_path):
    data, encoders = tmp_path / "data", tmp_path / "encoders"
    for folder in (data, encoders / "smollm2-135m", encoders / "dinov2-vit"):
        folder.mkdir(parents=True)
    models = {"text": encoders / "smollm2-135m", "image": encoders / "dinov2-vit"}
    assert vectors_of(data, encoders) == {m: ("model", path) for m, path in models.items()}
    with pytest.raises(UserError, match="no text vectors, and no --encoders"):
        vectors_of(data, None)
    given = data / "text_embeddings.parquet"
    given.touch()
    assert vectors_of(data, encoders)["text"] == ("embeddings", given)
    with pytest.raises(UserError, match=r"no image vectors, and .* has no dinov2-\*"):
        vectors_of(data, data)
