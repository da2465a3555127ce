"""Neighbours of several kinds, mixed."""

import numpy as np
import pytest

from macrec.data.sequences import Sequences
from macrec.ranking.neighbour_mix import Mix, mixed_neighbours
from macrec.ranking.neighbours import Counts, Neighbours
from tests.macrec.ranking.test_similar_items import ITEMS, drawn, latents

ANYTHING = np.ones(ITEMS, bool)
A = 0.7  # asymmetry of what is counted


def counted(histories):
    return Neighbours.from_counts(Counts.from_histories(histories, ITEMS), A)


def test_similar_items_have_their_share_and_whoever_has_nothing_else_the_whole(tmp_path):
    generator = np.random.default_rng(1)
    lists = [generator.permutation(20)[:6] for _ in range(30)]  # of the first half
    offsets = np.cumsum([0, *map(len, lists)])
    histories = Sequences(np.concatenate(lists).astype(np.int32), offsets)
    given = latents(tmp_path, *drawn(4))
    users = [np.array([3, 5]), np.array([25]), np.array([7])]
    left_out = np.array([0, 2]), np.array([9, 11])
    mixes = Mix(A), Mix(A, 0.25), Mix(A, 1.0), Mix(0.5)
    known = mixed_neighbours(histories, ITEMS, given, mixes)
    assert set(known) == set(mixes)
    alike = known[Mix(A, 1.0)].shares(users, ANYTHING, left_out)
    plain = counted(histories).shares(users, ANYTHING, left_out)
    mixed = known[Mix(A, 0.25)].shares(users, ANYTHING, left_out)
    assert set(plain.user_P) == {0, 2}  # nobody has bought item 25
    pairs = sorted({*zip(mixed.user_P.tolist(), mixed.item_P.tolist(), strict=True)})
    assert [*zip(mixed.user_P.tolist(), mixed.item_P.tolist(), strict=True)] == pairs
    user_P, item_P = (np.array(column) for column in zip(*pairs, strict=True))
    expected_P = 0.75 * plain.of(user_P, item_P) + 0.25 * alike.of(user_P, item_P)
    expected_P[user_P == 1] *= 4
    np.testing.assert_allclose(mixed.share_P, expected_P, rtol=1e-5)
    assert np.bincount(mixed.user_P, mixed.share_P) == pytest.approx([1, 1, 1])
    none, other = (known[Mix(a)].shares(users, ANYTHING, left_out) for a in (A, 0.5))
    assert none.share_P.tolist() == plain.share_P.tolist() != other.share_P.tolist()


def test_what_has_no_share_is_no_neighbour(tmp_path):
    """All to look-alikes: a user of the one item that has none is left without neighbours."""
    histories = Sequences(np.array([0, 1, 1, 0], np.int32), np.array([0, 2, 4]))
    text_ND, image_ND, has_text, has_image = drawn()
    has_text[0] = has_image[0] = False
    given = latents(tmp_path, text_ND, image_ND, has_text, has_image)
    users = [np.array([0]), np.array([1])]
    assert 0 in counted(histories).shares(users, ANYTHING, None).user_P
    (known,) = mixed_neighbours(histories, ITEMS, given, [Mix(A, 1.0)]).values()
    found = known.shares(users, ANYTHING, None)
    assert set(found.user_P) == {1} and 0 not in found.item_P
    assert found.share_P.sum() == pytest.approx(1)


def test_without_latents_what_is_counted_has_the_whole(tmp_path):
    histories = Sequences(np.array([0, 1, 2, 1, 3], np.int32), np.array([0, 3, 5]))
    nothing = np.zeros(ITEMS, bool)
    given = latents(tmp_path, *drawn()[:2], nothing, nothing)
    users = [np.array([1]), np.array([30])]
    ((mix, only),) = mixed_neighbours(histories, ITEMS, given, [Mix(A, 0.3)]).items()
    assert mix == Mix(A)
    found = only.shares(users, ANYTHING, None)
    plain = counted(histories).shares(users, ANYTHING, None)
    assert found.item_P.tolist() == plain.item_P.tolist() and set(found.user_P) == {0}
    np.testing.assert_allclose(found.share_P, plain.share_P, rtol=1e-6)


def test_each_kind_has_its_share(tmp_path):
    generator = np.random.default_rng(2)
    lists = [generator.integers(0, ITEMS, 8) for _ in range(60)]
    histories = Sequences(np.concatenate(lists).astype(np.int32), np.arange(61) * 8)
    given = latents(tmp_path, *drawn(4))
    users = [np.array([3, 5]), np.array([25]), np.array([7])]
    mixes = Mix(A), Mix(A, 1.0), Mix(A, 0.25, 0.4), Mix(0.5, 0.25, 0.4)
    known = mixed_neighbours(histories, ITEMS, given, mixes)
    near, alike, mixed, other = (known[m].shares(users, ANYTHING, None) for m in mixes)
    counts = Counts.from_successors(histories, ITEMS)
    after = Neighbours.from_counts(counts, A).shares(users, ANYTHING, None)
    user_P, item_P = mixed.user_P, mixed.item_P
    expected_P = 0.25 * alike.of(user_P, item_P)
    expected_P += 0.75 * (0.6 * near.of(user_P, item_P) + 0.4 * after.of(user_P, item_P))
    np.testing.assert_allclose(mixed.share_P, expected_P, rtol=1e-5)
    assert mixed.share_P.tolist() != other.share_P.tolist()
