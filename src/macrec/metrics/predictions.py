"""Rows of a predictions artifact, and the metrics of a system collected in chunks.

Shapes: U users of a chunk, T all test users, K places of a list, N items.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from macrec.metrics.ranking_metrics import Ranks, per_user
from macrec.ranking.lists import Lists

SHOWN_CUTOFF: Final = 10
"""Number of first places that count as shown."""


@dataclass
class SystemScores:
    """One system's metrics, collected chunk by chunk."""

    shown_N: npt.NDArray[np.int64]
    """Number of users whose first ten places contain each item."""
    parts: dict[str, list[npt.NDArray[np.float64]]] = field(default_factory=dict)

    def add(self, ranks: Ranks, cutoffs: tuple[int, ...]) -> None:
        """Add a chunk of users."""
        for name, value_U in per_user(ranks, cutoffs).items():
            self.parts.setdefault(name, []).append(value_U)

    @property
    def values(self) -> dict[str, npt.NDArray[np.float64]]:
        """Every metric by name, with the value of every user [T]."""
        return {name: np.concatenate(parts) for name, parts in self.parts.items()}


def first_places(scores_UN: npt.NDArray[np.float32], top_k: int) -> Lists:
    """Return the `top_k` best items from scores of the whole catalogue, and ties with the last.

    Tied items are sorted by index. An item with score -inf is not listed.
    """
    top_k = min(top_k, scores_UN.shape[1])
    last_U1 = -np.partition(-scores_UN, top_k - 1, axis=1)[:, top_k - 1 : top_k]
    length_U1 = (scores_UN >= last_U1).sum(axis=1, keepdims=True)
    widest = int(length_U1.max())
    item_UK = np.argpartition(-scores_UN, widest - 1, axis=1)[:, :widest].astype(np.int32)
    score_UK = np.take_along_axis(scores_UN, item_UK, axis=1)
    order_UK = np.lexsort((item_UK, -score_UK))
    item_UK = np.take_along_axis(item_UK, order_UK, axis=1)
    score_UK = np.take_along_axis(score_UK, order_UK, axis=1)
    real_UK = (np.arange(widest) < length_U1) & (score_UK > -np.inf)
    return Lists(np.where(real_UK, item_UK, -1), np.where(real_UK, score_UK, -np.inf))


def rows(
    user_ids: pa.Array, system: str, targets_U: npt.NDArray[np.int32], lists: Lists
) -> pa.Table:
    """Return rows of the predictions artifact; padding is removed from the lists."""
    real_UK = lists.items_UK >= 0
    offsets = np.concatenate([[0], np.cumsum(real_UK.sum(axis=1))]).astype(np.int32)
    return pa.table(
        {
            "user_id": user_ids,
            "system": pa.array([system] * len(user_ids)),
            "target": pa.array(targets_U),
            "items": pa.ListArray.from_arrays(offsets, lists.items_UK[real_UK]),
            "scores": pa.ListArray.from_arrays(offsets, lists.scores_UK[real_UK]),
        }
    )
