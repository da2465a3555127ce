"""How often items stand near each other in histories.

Shape suffixes: N items, K interactions, P pairs of places.
"""

from typing import Any, Final

import numpy as np
from scipy import sparse

from macrec.sequences import Sequences

PAIRS_AT_ONCE: Final = 6_000_000
"""Neighbours counted at a time, 0.2 GB: 2 million interactions at a window of 3."""

Matrix = Any
"""A scipy CSR matrix [N, N]."""


def count_neighbours(histories: Sequences, items: int, window: int) -> Matrix:
    """How often item a and item b > a stood at most `window` places apart, int32 [N, N].

    Each two places count once, at every distance alike. An item next to itself is not counted: it
    says that people repeat it, and nothing of what it is like.
    """
    item_K, length_U = histories.items, np.diff(histories.offsets)
    user_K = np.repeat(np.arange(len(histories), dtype=np.int32), length_U)
    gaps = range(1, min(window, int(length_U.max(initial=0)) - 1) + 1)
    counts_NN: Matrix = sparse.csr_array((items, items), dtype=np.int32)
    at_once = max(1, PAIRS_AT_ONCE // max(1, len(gaps)))
    for start in range(0, len(item_K), at_once):
        lower, upper = [], []
        for gap in gaps:
            second_P = item_K[start + gap : start + gap + at_once]
            first = slice(start, start + len(second_P))
            same_P = user_K[first] == user_K[start + gap : start + gap + at_once]
            near_P = same_P & (item_K[first] != second_P)
            lower.append(np.minimum(item_K[first], second_P)[near_P])
            upper.append(np.maximum(item_K[first], second_P)[near_P])
        if lower:
            a_P, b_P = np.concatenate(lower), np.concatenate(upper)
            ones_P = np.ones(len(a_P), np.int32)
            counts_NN += sparse.coo_array((ones_P, (a_P, b_P)), (items, items)).tocsr()
    return counts_NN
