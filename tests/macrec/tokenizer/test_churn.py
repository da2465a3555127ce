"""What became of the IDs: compared by item id, whatever the order."""

import numpy as np
import pytest

from macrec.core.errors import UserError
from macrec.data import schema
from macrec.data.columns import codes_column
from macrec.tokenizer.churn import Churn, compare
from tests.artifacts import dataset

NONE = [-1, -1]


def ids(path, **codes):
    """name=(text codes, image codes)."""
    index, unmoved = np.arange(len(codes), dtype=np.int32), [-1] * len(codes)
    columns = [codes_column(np.array(part, np.int32)) for part in zip(*codes.values(), strict=True)]
    return dataset(path, schema.SEMANTIC_IDS, [index, list(codes), *columns, unmoved, unmoved])


def test_items_are_counted_by_what_became_of_their_id(tmp_path):
    earlier = ids(
        tmp_path / "a",
        kept=([0, 0], [0, 0]),
        moved=([0, 1], [0, 1]),
        gone=([0, 2], [0, 2]),
        bare=([1, 0], [1, 0]),
        clad=([1, 1], NONE),
    )
    later = ids(
        tmp_path / "b",
        new=([0, 2], NONE),
        clad=([1, 1], [1, 1]),
        bare=([1, 0], NONE),
        moved=([0, 0], [0, 1]),
        kept=([0, 1], [0, 0]),
    )
    found = compare(earlier, later)
    assert found == {"text": Churn(2, 2, 1, 1), "image": Churn(2, 0, 1, 2)}
    assert (found["text"].share, found["image"].share) == (0.5, 0)


def test_other_levels_and_other_modalities(tmp_path):
    one = ids(tmp_path / "a", x=([0, 0], NONE), y=([0, 1], NONE))
    two = ids(tmp_path / "b", x=([0, 0, 0], [0, 0, 0]), y=([0, 1, 0], [-1, -1, -1]))
    assert compare(one, two) == {"text": Churn(0, 2, 0, 0), "image": Churn(0, 0, 1, 0)}
    assert compare(one, one) == {"text": Churn(2, 0, 0, 0)}


def test_what_are_no_semantic_ids_is_refused(tmp_path):
    index = np.arange(1, dtype=np.int32)
    other = dataset(tmp_path / "a", schema.PSEUDO_LABELS, [index, [0], [0]])
    with pytest.raises(UserError, match="not semantic IDs; its columns are item_index, text_label"):
        compare(other, ids(tmp_path / "b", x=([0, 0], NONE)))
