"""Leave-one-out by hand, and sequences that cannot be split."""

import numpy as np
import pytest

from macrec.core.errors import UserError
from macrec.data.split import read_split
from tests.artifacts import sequences_of

ITEMS = 30


def test_split_by_hand(tmp_path):
    split = read_split(sequences_of(tmp_path / "s", [[1, 2, 3, 4], [5], [6, 7]]), ITEMS)
    histories, targets = split.test(split.users_T)
    assert [h.tolist() for h in histories] == [[1, 2, 3], [6]]
    assert targets.tolist() == [4, 7]
    histories, targets = split.validation(0, np.random.default_rng(0))
    assert [h.tolist() for h in histories] == [[1, 2]]
    assert targets.tolist() == [3]
    assert split.training().items.tolist() == [1, 2]
    assert split.without_history == 1


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([[1], [2]], "none of 2 users"),
        ([[1, ITEMS, 2]], "1 of 3 interactions refer to items outside"),
    ],
)
def test_unusable_sequences_are_refused(tmp_path, sequences, message):
    with pytest.raises(UserError, match=message):
        read_split(sequences_of(tmp_path / "sequences", sequences), ITEMS)
