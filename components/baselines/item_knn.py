"""Item-kNN: items that stand in the histories of the same users are neighbours.

Sarwar et al. 2001, "Item-based collaborative filtering recommendation algorithms" (WWW), with the
shrunk cosine of Dacrema et al. 2019 (RecSys, "Are we really making much progress?"):

    s(i, j) = c(i, j) / (sqrt(c(i) c(j)) + shrinkage)

c(i, j) users have both items in their training part, c(i) have i. Every item keeps its `neighbours`
most similar ones. A user's score of j is the sum of s(i, j) over the history, an item that lies t
places back with the weight decay^t. Items without similarity follow in the order of popularity, all
below one-millionth, so that they do not make one large tie.

Shape suffixes: U users, B users of a batch, N items, K interactions, P pairs of items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import sparse

from components.baselines.interface import Course, Data, Fitted, Float32Array, Int32Array, State
from macrec.errors import check
from macrec.metrics import popularity

BELOW: Final = 1e-6
"""Largest score that popularity alone gives."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How similar is similar."""

    neighbours: int = 100
    """Similar items that an item keeps."""
    shrinkage: float = 5.0
    """The larger, the less a similarity counts that few users speak for."""
    decay: float = 0.7
    """Weight of an item of the history relative to that of the one after it."""

    def __post_init__(self) -> None:
        problems = [] if self.neighbours >= 1 else ["neighbours is below 1"]
        problems += [] if self.shrinkage >= 0 else ["shrinkage is negative"]
        problems += [] if 0 < self.decay <= 1 else ["decay is not in 0..1, 0 excluded"]
        check(not problems, f"item_knn: {'; '.join(problems)}.")


SPACE: Final[dict[str, tuple[Any, ...]]] = {
    "neighbours": (10, 20, 50, 100, 200, 500),
    "shrinkage": (0.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0),
    "decay": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
}


class ItemKnn:
    """Similarities of neighbours, and counts."""

    def __init__(
        self, similar_NN: sparse.csr_matrix, count_N: Float32Array, config: Config
    ) -> None:
        self.similar_NN, self.count_N, self.config = similar_NN, count_N, config
        self.parameters = int(similar_NN.nnz)

    def score_all(self, histories: Sequence[Int32Array]) -> Float32Array:
        """Similarity to what the user has, what came last before all."""
        length_B = np.array([len(history) for history in histories])
        offsets = np.concatenate([[0], np.cumsum(length_B)])
        item_K = np.concatenate(histories)
        back_K = np.repeat(offsets[1:], length_B) - 1 - np.arange(len(item_K))
        weight_K = np.float32(self.config.decay) ** back_K
        shape = (len(histories), len(self.count_N))
        history_BN = sparse.csr_matrix((weight_K, item_K, offsets), shape, dtype=np.float32)
        popular_N = np.float32(BELOW) * self.count_N / (self.count_N.max() + 1)
        found_BN: Any = history_BN @ self.similar_NN
        return found_BN.toarray() + popular_N

    def state(self) -> State:
        """Neighbours item after item."""
        return {
            "similarity": self.similar_NN.data,
            "neighbour": self.similar_NN.indices,
            "offsets": self.similar_NN.indptr,
            "count": self.count_N,
        }


def fit(config: Config, data: Data, course: Course) -> Fitted:
    """Counts who has what together."""
    user_K = np.repeat(np.arange(len(data.training)), np.diff(data.training.offsets))
    taken_UN = sparse.coo_matrix(
        (np.ones(len(user_K), np.float32), (user_K, data.training.items)),
        (len(data.training), data.items),
    ).tocsr()
    count_N = popularity(data.training.items, data.items).astype(np.float32)
    taken_UN.data[:] = 1  # who takes an item twice is one user all the same
    users_N = np.bincount(taken_UN.indices, minlength=data.items)
    both: Any = (taken_UN.T @ taken_UN).tocoo()
    other_P = both.row != both.col
    row_P, column_P, both_P = both.row[other_P], both.col[other_P], both.data[other_P]
    similar_P = both_P / (np.sqrt(users_N[row_P] * users_N[column_P]) + config.shrinkage)
    order_P = np.lexsort((column_P, -similar_P, row_P))
    row_P, column_P, similar_P = row_P[order_P], column_P[order_P], similar_P[order_P]
    first_N = np.concatenate([[0], np.cumsum(np.bincount(row_P, minlength=data.items))])
    kept_P = np.arange(len(row_P)) - first_N[row_P] < config.neighbours
    kept = (similar_P[kept_P].astype(np.float32), (row_P[kept_P], column_P[kept_P]))
    similar_NN = sparse.csr_matrix(kept, (data.items, data.items))
    return Fitted(ItemKnn(similar_NN, count_N, config), [])


def load(config: Config, data: Data, state: State) -> ItemKnn:
    """The model that was saved."""
    parts = (state["similarity"], state["neighbour"], state["offsets"])
    similar_NN = sparse.csr_matrix(parts, (data.items, data.items))
    return ItemKnn(similar_NN, state["count"], config)
