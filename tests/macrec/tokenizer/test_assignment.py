"""Distances of R items to M codewords, and the room of each codeword."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macrec.tokenizer.assignment import LEAST_TOTAL_ITEMS, assign, least_total, smallest_first


def total(distance_RM, choice_R):
    return distance_RM[np.arange(len(choice_R)), choice_R].sum()


def brute_force(distance_RM, room_M):
    """The smallest sum over all ways to give each item a place."""
    places = np.repeat(np.arange(len(room_M)), room_M)
    choices = itertools.permutations(places, len(distance_RM))
    return min(total(distance_RM, list(choice)) for choice in choices)


@st.composite
def groups(draw, most=5):
    """Few codewords with little room, on a coarse grid so that distances tie."""
    items, size = draw(st.integers(1, most)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    room_M = rng.integers(0, 3, size)
    room_M[rng.integers(size)] += max(0, items - room_M.sum())
    distance_RM = rng.integers(0, draw(st.sampled_from([3, 1000])), (items, size)).astype(float)
    return np.where(room_M > 0, distance_RM, np.inf), room_M


@settings(deadline=None, max_examples=200)
@given(groups())
def test_no_assignment_has_a_smaller_sum(group):
    distance_RM, room_M = group
    choice_R = least_total(distance_RM, room_M)
    assert total(distance_RM, choice_R) == brute_force(distance_RM, room_M)
    assert (np.bincount(choice_R, minlength=len(room_M)) <= room_M).all()


@settings(deadline=None, max_examples=200)
@given(groups(most=8))
def test_the_smallest_distance_first_is_what_it_says(group):
    distance_RM, room_M = group
    expected, left_M = {}, room_M.copy()
    pairs = itertools.product(range(len(distance_RM)), range(len(room_M)))
    for item, codeword in sorted(pairs, key=lambda pair: distance_RM[pair]):
        if item not in expected and left_M[codeword]:
            expected[item] = codeword
            left_M[codeword] -= 1
    choice_R = smallest_first(distance_RM, room_M)
    assert choice_R.tolist() == [expected[k] for k in range(len(choice_R))]


def test_the_smallest_distance_first_costs_more():
    distance_RM, room_M = np.array([[0.5, 8.5], [0.2, 7.8]]), np.array([1, 1])
    assert total(distance_RM, smallest_first(distance_RM, room_M)) == pytest.approx(8.7)
    assert total(distance_RM, least_total(distance_RM, room_M)) == pytest.approx(8.3)


@pytest.mark.parametrize("settle", [least_total, smallest_first])
def test_equal_items_get_the_nearest_codewords_in_their_order(settle):
    equal, other = [3.0, 1.0, 2.0, 5.0], [3.0, 0.5, 2.0, 5.0]
    choice_R = settle(np.array([equal, other, equal, equal]), np.ones(4, np.int64))
    assert choice_R.tolist() == [2, 1, 0, 3]


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.sampled_from([least_total, smallest_first]))
def test_however_many_are_equal_they_are_served_in_their_order(seed, settle):
    rng = np.random.default_rng(seed)
    kind_R = rng.integers(0, 3, 7)
    distance_RM = rng.integers(0, 5, (3, 7)).astype(float)[kind_R]
    choice_R = settle(distance_RM, rng.integers(1, 3, 7))
    for kind in range(3):
        rows = np.flatnonzero(kind_R == kind)
        got = list(zip(distance_RM[rows, choice_R[rows]], choice_R[rows], strict=True))
        assert got == sorted(got)


def test_each_group_has_its_own_room():
    distance_RM = np.array([[1.0, 2.0, 3.0]] * 5)
    room_GM = np.array([[1, 0, 5], [0, 2, 0], [9, 9, 9]])
    choice_R = assign(distance_RM, np.array([0, 1, 2, 0, 1]), room_GM)
    assert choice_R.tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize("more", [0, 1])
def test_a_large_group_is_settled_by_the_smallest_distance(more):
    rng = np.random.default_rng(0)
    items = LEAST_TOTAL_ITEMS + more
    distance_RM, room_GM = rng.random((items, 280)), np.ones((1, 280), np.int64)
    settle = smallest_first if more else least_total
    choice_R = assign(distance_RM, np.zeros(items, np.int64), room_GM)
    assert choice_R.tolist() == settle(distance_RM, room_GM[0]).tolist()
    assert (
        choice_R.tolist()
        != (least_total if more else smallest_first)(distance_RM, room_GM[0]).tolist()
    )


def test_nobody_to_place():
    assert assign(np.zeros((0, 3)), np.zeros(0, np.int64), np.ones((0, 3), np.int64)).shape == (0,)
