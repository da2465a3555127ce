"""How often items stand near each other in histories, and how often one comes after another.

Shape suffixes: N items, K interactions, P pairs of places.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from macrec.data.sequences import Sequences

PAIRS_AT_ONCE: Final = 6_000_000
"""Neighbours counted at a time, 0.2 GB: 2 million interactions at a window of 3."""

Matrix = Any
"""A scipy CSR matrix [N, N]."""

ItemArray = npt.NDArray[np.integer]


class _Near(NamedTuple):
    """Two different items of one history, the one `gap` places after the other."""

    first_P: ItemArray
    second_P: ItemArray
    gap: int


def count_neighbours(histories: Sequences, items: int, window: int) -> Matrix:
    """How often item a and item b > a stood at most `window` places apart, int32 [N, N].

    Each two places count once, at every distance alike. An item next to itself is not counted: it
    says that people repeat it, and nothing of what it is like.
    """
    counts_NN: Matrix = sparse.csr_array((items, items), dtype=np.int32)
    for some in _near(histories, window):
        a_P = np.concatenate([np.minimum(near.first_P, near.second_P) for near in some])
        b_P = np.concatenate([np.maximum(near.first_P, near.second_P) for near in some])
        ones_P = np.ones(len(a_P), np.int32)
        counts_NN += sparse.coo_array((ones_P, (a_P, b_P)), (items, items)).tocsr()
    return counts_NN


def count_successors(histories: Sequences, items: int, window: int) -> Matrix:
    """How often item b came at most `window` places after item a, float32 [N, N] (a, b).

    Each two places count one over their distance. An item after itself is not counted.
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
    """All that are at most `window` places apart, some interactions at a time."""
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
