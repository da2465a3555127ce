"""Item-kNN: items that occur in the histories of the same users are neighbours.

Source: Sarwar et al. 2001, "Item-based collaborative filtering recommendation algorithms" (WWW).
The similarity and the score are those of `macrec.ranking.neighbours`: c(i, j) is the number of
users with both items in their training part, c(i) the number of users with i. Items without any
similarity are ordered by popularity. Their scores are below one millionth, so that they do not form
one large tie.

Shape suffixes: U users, B users of a batch, N items, K interactions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import sparse

from components.baselines.interface import (
    Data,
    Float32Array,
    Int32Array,
    State,
    TrainedModel,
    TrainingSchedule,
)
from macrec.core.errors import check
from macrec.metrics.ranking_metrics import popularity
from macrec.ranking.neighbours import Neighbours, most_similar

BELOW: Final = 1e-6
"""Upper bound of the score that comes from popularity alone."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the similarity and of the history weights."""

    neighbours: int = 100
    """Number of most similar items that are stored per item."""
    asymmetry: float = 0.5
    """Exponent of the asymmetric cosine. 0.5 is the cosine; a larger value raises the similarity of
    popular items, a smaller one lowers it."""
    shrinkage: float = 5.0
    """Shrinkage of the similarity. A larger value discounts similarities with few co-occurrences
    more."""
    decay: float = 0.7
    """Weight of an item of the history relative to that of the next one."""

    def __post_init__(self) -> None:
        problems = [] if self.neighbours >= 1 else ["neighbours is below 1"]
        problems += [] if 0 <= self.asymmetry <= 1 else ["asymmetry is not in 0..1"]
        problems += [] if self.shrinkage >= 0 else ["shrinkage is negative"]
        problems += [] if 0 < self.decay <= 1 else ["decay is not in 0..1, 0 excluded"]
        check(not problems, f"item_knn: {'; '.join(problems)}.")


SPACE: Final[dict[str, tuple[Any, ...]]] = {
    "neighbours": (10, 20, 50, 100, 200, 500),
    "asymmetry": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "shrinkage": (0.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0),
    "decay": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
}


class ItemKnn:
    """Item similarities and interaction counts as a baseline model."""

    def __init__(self, neighbours: Neighbours, count_N: Float32Array) -> None:
        self.neighbours, self.count_N = neighbours, count_N
        self.parameters = int(neighbours.similar_NN.nnz)

    def score_all(self, histories: Sequence[Int32Array]) -> Float32Array:
        """Return the similarity of all items to each history, [B, N].

        Recent items of the history have the largest weight.
        """
        popular_N = np.float32(BELOW) * self.count_N / (self.count_N.max() + 1)
        return self.neighbours.scores(histories).toarray() + popular_N

    def state(self) -> State:
        """Return the similarities in CSR format, and the counts."""
        similar_NN = self.neighbours.similar_NN
        return {
            "similarity": similar_NN.data,
            "neighbour": similar_NN.indices,
            "offsets": similar_NN.indptr,
            "count": self.count_N,
        }


def fit(config: Config, data: Data, schedule: TrainingSchedule) -> TrainedModel:
    """Count co-occurrences and compute the similarities."""
    user_K = np.repeat(np.arange(len(data.training)), np.diff(data.training.offsets))
    taken_UN = sparse.coo_matrix(
        (np.ones(len(user_K), np.float32), (user_K, data.training.items)),
        (len(data.training), data.items),
    ).tocsr()
    count_N = popularity(data.training.items, data.items).astype(np.float32)
    taken_UN.data[:] = 1  # a user who has an item twice counts once
    users_N = np.bincount(taken_UN.indices, minlength=data.items)
    both_NN: Any = (taken_UN.T @ taken_UN).tocsr()
    similar_NN = most_similar(
        [both_NN], users_N, config.asymmetry, config.shrinkage, config.neighbours
    )
    return TrainedModel(ItemKnn(Neighbours(similar_NN, config.decay), count_N), [])


def load(config: Config, data: Data, state: State) -> ItemKnn:
    """Restore a saved model."""
    parts = (state["similarity"], state["neighbour"], state["offsets"])
    similar_NN = sparse.csr_matrix(parts, (data.items, data.items))
    return ItemKnn(Neighbours(similar_NN, config.decay), state["count"])
