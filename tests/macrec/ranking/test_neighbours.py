"""Neighbours against plain loops over the histories."""

import numpy as np
import pytest

from macrec.data import cooccurrence
from macrec.data.sequences import Sequences
from macrec.ranking.neighbours import DECAY, KEPT, SHRINKAGE, WINDOW, Counts, Neighbours, Shares

ITEMS = 12
ALL = np.ones(ITEMS, bool)
ASYMMETRY = 0.7


def sequences(histories):
    offsets = np.cumsum([0, *(len(h) for h in histories)])
    return Sequences(np.array([i for h in histories for i in h], np.int32), offsets)


def counted(flat, items):
    return Neighbours.from_counts(Counts.from_histories(flat, items), ASYMMETRY)


def drawn(users, most, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, ITEMS, n).tolist() for n in generator.integers(1, most, users)]


def by_loops(histories):
    """s(i, j) of all pairs."""
    near_NN, times_N = np.zeros((ITEMS, ITEMS)), np.zeros(ITEMS)
    for history in histories:
        for place, a in enumerate(history):
            times_N[a] += 1
            for b in history[place + 1 : place + 1 + WINDOW]:
                if a != b:
                    near_NN[a, b] += 1
                    near_NN[b, a] += 1
    return near_NN / (np.outer(times_N**ASYMMETRY, times_N ** (1 - ASYMMETRY)) + SHRINKAGE)


def test_similarity_and_scores_are_those_of_the_equation():
    histories = drawn(40, 14)
    neighbours = counted(sequences(histories), ITEMS)
    similar_NN = by_loops(histories)
    np.testing.assert_allclose(neighbours.similar_NN.toarray(), similar_NN, rtol=1e-6)
    asked = [np.array([3]), np.array([1, 7, 1]), np.array([0, 2, 4, 6, 8])]
    found_BN = neighbours.scores(asked).toarray()
    for user, history in enumerate(asked):
        expected = sum(DECAY**back * similar_NN[i] for back, i in enumerate(history[::-1]))
        np.testing.assert_allclose(found_BN[user], expected, rtol=1e-5)


def test_successors_are_counted_one_way_and_by_distance():
    histories = drawn(40, 14)
    after_NN, times_N = np.zeros((ITEMS, ITEMS)), np.zeros(ITEMS)
    for history in histories:
        for place, a in enumerate(history):
            times_N[a] += 1
            for gap, b in enumerate(history[place + 1 : place + 1 + WINDOW], 1):
                after_NN[a, b] += (a != b) / gap
    of_all_N = np.outer(times_N**ASYMMETRY, times_N ** (1 - ASYMMETRY)) + SHRINKAGE
    counts = Counts.from_successors(sequences(histories), ITEMS)
    found = Neighbours.from_counts(counts, ASYMMETRY)
    np.testing.assert_allclose(found.similar_NN.toarray(), after_NN / of_all_N, rtol=1e-5)
    assert abs(after_NN - after_NN.T).max() > 1  # the order is told


def test_two_by_hand():
    # item 0 is there twice, item 1 three times; they stand near each other twice
    neighbours = counted(sequences([[0, 1], [1, 2, 0], [1]]), ITEMS)
    to_1 = 2 / (2**ASYMMETRY * 3 ** (1 - ASYMMETRY) + SHRINKAGE)
    assert neighbours.similar_NN[0, 1] == pytest.approx(to_1)
    to_0 = 2 / (3**ASYMMETRY * 2 ** (1 - ASYMMETRY) + SHRINKAGE)
    assert neighbours.similar_NN[1, 0] == pytest.approx(to_0) and to_0 < to_1


def test_an_item_keeps_its_most_similar_ones_only():
    histories = [[0, other] for other in range(1, KEPT + 6) for _ in range(other % 7 + 1)]
    flat = sequences(histories)
    similar_NN = counted(flat, KEPT + 6).similar_NN
    row = similar_NN[0].toarray()[0]
    assert (row > 0).sum() == KEPT
    all_of_them = np.array([other % 7 + 1 for other in range(1, KEPT + 6)])
    dropped = all_of_them[row[1:] == 0]
    assert len(dropped) == 5 and (dropped == 1).all()


def test_shares_add_up_to_one_over_what_may_be_listed():
    neighbours = counted(sequences(drawn(40, 14)), ITEMS)
    histories = [np.array([3]), np.array([1, 7])]
    listable_N = ALL.copy()
    listable_N[[0, 5]] = False
    left_out = np.array([0, 1, 1, 1]), np.array([3, 1, 7, 9])
    shares = neighbours.shares(histories, listable_N, left_out)
    scores_BN = neighbours.scores(histories).toarray()
    scores_BN[:, ~listable_N] = 0
    scores_BN[left_out] = 0
    scores_BN **= 2
    dense_BN = np.zeros_like(scores_BN)
    dense_BN[shares.user_P, shares.item_P] = shares.share_P
    np.testing.assert_allclose(dense_BN, scores_BN / scores_BN.sum(1, keepdims=True), rtol=1e-5)
    pairs = shares.user_P * ITEMS + shares.item_P
    assert (np.diff(pairs) > 0).all() and (shares.share_P > 0).all()


def test_a_user_without_neighbours_has_no_shares():
    neighbours = counted(sequences([[0, 1], [2]]), ITEMS)
    shares = neighbours.shares([np.array([2]), np.array([0]), np.array([11])], ALL, None)
    assert (shares.user_P.tolist(), shares.item_P.tolist()) == ([1], [1])
    assert shares.share_P.tolist() == [1.0]
    none = neighbours.shares([np.array([2])], ALL, None)
    assert not len(none.user_P)
    assert none.of(np.array([0]), np.array([1])).tolist() == [0]
    assert not len(none.best(5).user_P)


def test_the_best_of_every_user_and_what_is_no_neighbour():
    shares = Shares(
        np.array([0, 0, 0, 2, 2]),
        np.array([1, 4, 6, 0, 3]),
        np.array([0.2, 0.4, 0.4, 0.5, 0.5], np.float32),
    )
    best = shares.best(1)
    assert (best.user_P.tolist(), best.item_P.tolist()) == ([0, 2], [4, 0])  # a tie: by number
    assert shares.best(2).item_P.tolist() == [4, 6, 0, 3]
    found_P = shares.of(np.array([0, 0, 1, 2, 2, 3]), np.array([6, 5, 4, 3, 99, 0]))
    assert found_P.tolist() == pytest.approx([0.4, 0, 0, 0.5, 0, 0])


@pytest.mark.parametrize("pairs_at_once", [1, 7, 50])
def test_blocks_of_items_have_the_same_neighbours(monkeypatch, pairs_at_once):
    flat = sequences(drawn(40, 14))
    whole = counted(flat, ITEMS).similar_NN.toarray()
    monkeypatch.setattr("macrec.ranking.neighbours.PAIRS_AT_ONCE", pairs_at_once)
    assert (counted(flat, ITEMS).similar_NN.toarray() == whole).all()


@pytest.mark.parametrize("pairs_at_once", [1, 7, 50])
@pytest.mark.parametrize("count", [cooccurrence.count_neighbours, cooccurrence.count_successors])
def test_blocks_count_the_same(monkeypatch, count, pairs_at_once):
    flat = sequences(drawn(40, 14))
    whole = count(flat, ITEMS, 3).toarray()
    assert whole.any()
    monkeypatch.setattr(cooccurrence, "PAIRS_AT_ONCE", pairs_at_once)
    np.testing.assert_allclose(count(flat, ITEMS, 3).toarray(), whole, rtol=1e-6)
