"""Histories: who comes back for what, and whether lists leave that out."""

import numpy as np
import pytest

from macrec.data.sequences import Sequences, seen_pairs, should_drop_seen


def sequences(*histories: list[int]) -> Sequences:
    flat = np.concatenate([np.zeros(0, np.int32), *(np.array(h, np.int32) for h in histories)])
    return Sequences(flat.astype(np.int32), np.cumsum([0, *(len(h) for h in histories)]))


@pytest.mark.parametrize(
    ("histories", "share"),
    [
        ([[1, 2, 1, 9, 9]], 1 / 2),
        ([[1, 1, 1, 2, 9, 9], [3, 4, 5, 5]], 2 / 4),
        ([[1, 2, 3, 1, 3]], 0.0),  # of validation and test
        ([[1, 2, 3, 4], [1, 2, 9, 9]], 0.0),  # another user's
        ([[], [4], [4, 5, 6]], 0.0),
        ([], 0.0),
    ],
)
def test_repeats_are_counted_in_the_training_part_alone(histories, share):
    assert sequences(*histories).repeat_share() == pytest.approx(share)


def test_seen_items_are_dropped_unless_people_come_back_for_them():
    rare = sequences(*([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]] * 6), [0, 1, 0, 3, 4])
    often = sequences(*([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]] * 2), [0, 1, 0, 3, 4])
    assert rare.repeat_share() == 1 / 44 and often.repeat_share() == 1 / 16
    assert should_drop_seen("auto", rare) and not should_drop_seen("auto", often)
    assert should_drop_seen("drop", often) and not should_drop_seen("keep", rare)


def test_pairs_of_who_has_what():
    user_P, item_P = seen_pairs([np.array([5, 2, 5]), np.array([], int), np.array([2])])
    assert list(zip(user_P.tolist(), item_P.tolist(), strict=True)) == [(0, 2), (0, 5), (2, 2)]
