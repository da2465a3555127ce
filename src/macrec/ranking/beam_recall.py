"""Measure how many of the best items a beam search finds, compared with exhaustive decoding."""

from copy import copy

import numpy as np
import numpy.typing as npt

from macrec.generator.tokens import Modality
from macrec.ranking.ranker import Histories, Ranker


def beam_recall(
    ranker: Ranker, histories: Histories, modality: Modality, beams: int, top_k: int
) -> npt.NDArray[np.float64]:
    """Return the share [U] of every user's `top_k` best items that a beam search lists.

    Exhaustive decoding determines the best items. The share is 1 for a user without any.
    """
    oracle = copy(ranker)
    oracle.exhaustive = True
    best = oracle.search(histories, modality, max(beams, top_k), top_k)
    found = ranker.search(histories, modality, beams, top_k)
    recall_U = np.ones(len(histories))
    for user, (best_K, found_K) in enumerate(zip(best.items_UK, found.items_UK, strict=True)):
        if best_K[0] >= 0:
            recall_U[user] = np.isin(best_K[best_K >= 0], found_K).mean()
    return recall_U
