"""Assign items to codewords when the nearest codewords lack room for all of them.

Shapes: R items (rows), M codewords, G groups, C columns of a linear assignment.
"""

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LEAST_TOTAL_ITEMS = 256
"""Largest group for which the smallest total distance is computed. At this size it takes as long as
settling the smallest distance first: 10 to 60 us per item. At 512 items it takes 60 to 200 us."""


def assign(distance_RM: Floats, group_R: Ints, room_GM: Ints) -> Ints:
    """Return a codeword for each item, [R]; no codeword takes more items than its room.

    A group of up to LEAST_TOTAL_ITEMS items gets the codewords with the smallest total distance.
    In a larger group the item and codeword at the smallest distance are assigned first.
    Items with equal distances get their codewords in row order, nearest first.

    Args:
        distance_RM: distance of each item to each codeword, finite.
        group_R: group of each item, in 0..G-1.
        room_GM: number of items each codeword may take in each group. The total room of a group
            must be at least its number of items.
    """
    distance_RM = np.where(room_GM[group_R] > 0, distance_RM, np.inf)
    choice_R = distance_RM.argmin(1)
    for group, rows in _find_contested(group_R, choice_R, room_GM):
        small = len(rows) <= LEAST_TOTAL_ITEMS
        settle = least_total if small else smallest_first
        choice_R[rows] = settle(distance_RM[rows], room_GM[group])
    return choice_R


def _find_contested(group_R: Ints, choice_R: Ints, room_GM: Ints) -> list[tuple[int, Ints]]:
    """Return the groups in which some codeword is nearest to more items than it has room for."""
    groups, size = room_GM.shape
    wanted_GM = np.bincount(group_R * size + choice_R, minlength=groups * size)
    contested_G = np.any(wanted_GM.reshape(groups, size) > room_GM, axis=1)
    rows = np.flatnonzero(contested_G[group_R])
    rows = rows[np.argsort(group_R[rows], kind="stable")]
    found, starts = np.unique(group_R[rows], return_index=True)
    edges = [*starts.tolist(), len(rows)]
    parts = [rows[start:stop] for start, stop in itertools.pairwise(edges)]
    return list(zip(found.tolist(), parts, strict=True))


def least_total(distance_RM: Floats, room_M: Ints) -> Ints:
    """Return the codewords with the smallest total distance.

    Distances are infinite where a codeword has no room.
    """
    items, size = distance_RM.shape
    near_RC = distance_RM.argpartition(min(items, size) - 1, 1)[:, :items]
    order_RC = np.take_along_axis(distance_RM, near_RC, 1).argsort(1)
    near_RC = np.take_along_axis(near_RC, order_RC, 1)
    room_RC = room_M[near_RC]
    # The other items occupy at most `items` - 1 places. So each item finds a free place among its
    # `items` nearest ones, and no farther place can be needed.
    asked_M = np.bincount(near_RC[room_RC.cumsum(1) - room_RC < items], minlength=size)
    column_C = np.repeat(np.arange(size), np.minimum(asked_M, room_M))
    cost_RC = distance_RM[:, column_C]
    choice_R = column_C[linear_sum_assignment(cost_RC)[1]]
    # Items with equal rows can swap places at no cost: the first of them gets the nearest.
    first: dict[bytes, int] = {}
    kind_R = np.array([first.setdefault(row.tobytes(), k) for k, row in enumerate(cost_RC)])
    by_row = np.argsort(kind_R, kind="stable")
    by_place = np.lexsort((choice_R, distance_RM[np.arange(items), choice_R], kind_R))
    settled_R = np.empty_like(choice_R)
    settled_R[by_row] = choice_R[by_place]
    return settled_R


def smallest_first(distance_RM: Floats, room_M: Ints) -> Ints:
    """Return the codewords that result from assigning pairs from the smallest distance up.

    Uses deferred acceptance: an item asks for the nearest codeword that has not refused it, and a
    codeword keeps the nearest items that ask. Both sides rank by the same distance.
    """
    distance_RM = distance_RM.copy()
    choice_R = distance_RM.argmin(1)
    index_R = np.arange(len(choice_R))
    while True:
        order = np.lexsort((distance_RM[index_R, choice_R], choice_R))  # stable: ties go by row
        refused_R = np.empty(len(choice_R), bool)
        refused_R[order] = rank_in_run(choice_R[order]) >= room_M[choice_R[order]]
        if not refused_R.any():
            return choice_R
        distance_RM[refused_R, choice_R[refused_R]] = np.inf
        choice_R[refused_R] = distance_RM[refused_R].argmin(1)


def rank_in_run(keys_R: Ints) -> Ints:
    """Return the position of each row within its run of equal keys, from 0."""
    index_R = np.arange(len(keys_R))
    starts = np.append(True, keys_R[1:] != keys_R[:-1])[: len(keys_R)]
    return index_R - np.maximum.accumulate(np.where(starts, index_R, 0))
