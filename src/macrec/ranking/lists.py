"""Ranked lists: the best items of every user, and all items that tie with the last.

Shapes: U users, K places of a list, P (user, item) pairs.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class Lists(NamedTuple):
    """Ranked lists, best first, padded with item -1 and score -inf.

    A tie at the last place is kept as a whole, so a list can be longer than requested.
    """

    items_UK: npt.NDArray[np.int32]
    scores_UK: npt.NDArray[np.float32]


def top_lists(
    user_P: IntArray, item_P: IntArray, score_P: npt.NDArray[np.floating], users: int, top_k: int
) -> Lists:
    """Return the `top_k` best items of every user, and all items that tie with the last.

    Tied items are sorted by item index.
    """
    score_P = score_P.astype(np.float32)  # lists contain float32, so ties must be found in float32
    order = np.lexsort((item_P, -score_P, user_P))
    user_P, item_P, score_P = user_P[order], item_P[order], score_P[order]
    place_P = np.arange(len(user_P)) - np.searchsorted(user_P, user_P)
    last_U = np.full(users, -np.inf)
    last_U[user_P[place_P == top_k - 1]] = score_P[place_P == top_k - 1]
    kept_P = (place_P < top_k) | (score_P == last_U[user_P])
    width = max(top_k, int(place_P[kept_P].max(initial=-1)) + 1)
    items_UK = np.full((users, width), -1, np.int32)
    scores_UK = np.full((users, width), -np.inf, np.float32)
    items_UK[user_P[kept_P], place_P[kept_P]] = item_P[kept_P]
    scores_UK[user_P[kept_P], place_P[kept_P]] = score_P[kept_P]
    return Lists(items_UK, scores_UK)
