"""Co-occurrence counts: how often items are near each other, or in sequence, in histories.

Shape suffixes: N items, U users, K interactions, P pairs of positions.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from macrec.data.sequences import Sequences

PAIRS_AT_ONCE: Final = 6_000_000
"""Pairs counted at a time (0.2 GB): those of 2 million interactions with a window of 3."""

Matrix = Any
"""A scipy CSR matrix [N, N]."""

ItemArray = npt.NDArray[np.integer]


class _Near(NamedTuple):
    """Pairs of different items of one history, the second one `gap` positions after the first."""

    first_P: ItemArray
    second_P: ItemArray
    gap: int


def count_neighbours(histories: Sequences, items: int, window: int) -> Matrix:
    """Return how often items a and b > a are at most `window` positions apart, int32 [N, N].

    Each pair of positions counts once, whatever its distance. Pairs of an item with itself are not
    counted: they show that users repeat the item, but not which items are similar to it.
    """
    counts_NN: Matrix = sparse.csr_array((items, items), dtype=np.int32)
    for some in _near(histories, window):
        a_P = np.concatenate([np.minimum(near.first_P, near.second_P) for near in some])
        b_P = np.concatenate([np.maximum(near.first_P, near.second_P) for near in some])
        ones_P = np.ones(len(a_P), np.int32)
        counts_NN += sparse.coo_array((ones_P, (a_P, b_P)), (items, items)).tocsr()
    return counts_NN


def count_successors(histories: Sequences, items: int, window: int) -> Matrix:
    """Return how often item b is at most `window` positions after item a, float32 [N, N] (a, b).

    Each pair of positions counts with weight 1 / distance. An item after itself is not counted.
    """
    counts_NN: Matrix = sparse.csr_array((items, items), dtype=np.float32)
    for some in _near(histories, window):
        a_P = np.concatenate([near.first_P for near in some])
        b_P = np.concatenate([near.second_P for near in some])
        count_P = np.repeat([1 / near.gap for near in some], [len(near.first_P) for near in some])
        count_P = count_P.astype(np.float32)
        counts_NN += sparse.coo_array((count_P, (a_P, b_P)), (items, items)).tocsr()
    return counts_NN


def _near(histories: Sequences, window: int) -> Iterator[list[_Near]]:
    """Yield all pairs at most `window` positions apart, for some interactions at a time."""
    item_K, length_U = histories.items, np.diff(histories.offsets)
    user_K = np.repeat(np.arange(len(histories), dtype=np.int32), length_U)
    gaps = range(1, min(window, int(length_U.max(initial=0)) - 1) + 1)
    at_once = max(1, PAIRS_AT_ONCE // max(1, len(gaps)))
    for start in range(0, len(item_K) if gaps else 0, at_once):
        some = []
        for gap in gaps:
            second_P = item_K[start + gap : start + gap + at_once]
            first = slice(start, start + len(second_P))
            same_P = user_K[first] == user_K[start + gap : start + gap + at_once]
            near_P = same_P & (item_K[first] != second_P)
            some.append(_Near(item_K[first][near_P], second_P[near_P], gap))
        yield some
