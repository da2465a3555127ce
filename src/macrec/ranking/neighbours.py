"""Item neighbours: items of the same histories, as candidates for a user's next item.

The similarity is the asymmetric cosine of Aiolli 2013 (RecSys, "Efficient top-N recommendation for
very large scale binary rated datasets"). It is shrunk as by Dacrema et al. 2019 (RecSys, "Are we
really making much progress?") and works on counts of any kind:

    s(i, j) = c(i, j) / (c(i)^a c(j)^(1 - a) + shrinkage)

With a = 1/2 it is the cosine; a larger a penalises popular items j less. Every item keeps its most
similar items. A user's score of j is the sum of s(i, j) over the user's history. An item t places
back has the weight decay^t.

To combine it with other scores, the score is turned into a share of the user's squared scores.
Squaring favours items that stand out from many slightly similar ones, as in case amplification
(Breese, Heckerman and Kadie 1998). docs/results.md shows the effect.

There are two kinds of counts c(i, j). One counts how often i and j occurred near each other. The
other counts how often j came after i (successors), with a weight of one over their distance.

Shape suffixes: B users of a batch, N items, K interactions, P pairs.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from macrec.data.cooccurrence import PAIRS_AT_ONCE, Matrix, count_neighbours, count_successors
from macrec.data.sequences import Histories, Sequences

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

WINDOW: Final = 5
"""Items at most this many places apart are counted as a pair, which limits the pairs of long
histories. On the scientific data set, windows of 1 to 20 were equally good
(docs/experiments.md)."""
SHRINKAGE: Final = 20.0
KEPT: Final = 100
DECAY: Final = 0.7
AMPLIFIED: Final = 2
"""Exponent applied to the scores before shares are computed."""


class Shares(NamedTuple):
    """Item neighbours of some users, sorted by user and item."""

    user_P: Int64Array
    item_P: Int64Array
    share_P: Float32Array
    """Share of the user's squared scores; the shares of a user add up to 1."""

    def best(self, most: int) -> "Shares":
        """Return the `most` largest shares of every user; ties are broken by item index."""
        order = np.lexsort((self.item_P, -self.share_P, self.user_P))
        user_P = self.user_P[order]
        kept = np.sort(order[np.arange(len(order)) - np.searchsorted(user_P, user_P) < most])
        return Shares(self.user_P[kept], self.item_P[kept], self.share_P[kept])

    def of(self, user_P: Int64Array, item_P: Int64Array) -> Float32Array:
        """Return the shares of the given pairs, 0 for pairs that are not neighbours."""
        items = 1 + max(self.item_P.max(initial=0), item_P.max(initial=0))
        known_P, asked_P = self.user_P * items + self.item_P, user_P * items + item_P
        place_P = np.searchsorted(known_P, asked_P)
        known_P, share_P = np.append(known_P, -1), np.append(self.share_P, np.float32(0))
        return np.where(known_P[place_P] == asked_P, share_P[place_P], np.float32(0))


class Counts(NamedTuple):
    """Counts of items and of item pairs in histories."""

    parts: tuple[Matrix, ...]
    """Matrices whose sum is c(i, j), each CSR [N, N]."""
    times_N: Int64Array
    """c(i): how often i occurs."""

    @classmethod
    def from_histories(cls, histories: Sequences, items: int) -> "Counts":
        """Count how often i and j occurred near each other, in all histories."""
        upper_NN = count_neighbours(histories, items, WINDOW)
        # Keep the parts separate: a matrix of their sum would make up half of the memory in use.
        return cls((upper_NN, upper_NN.T.tocsr()), np.bincount(histories.items, minlength=items))

    @classmethod
    def from_successors(cls, histories: Sequences, items: int) -> "Counts":
        """Count how often j came soon after i, in all histories."""
        after_NN = count_successors(histories, items, WINDOW)
        return cls((after_NN,), np.bincount(histories.items, minlength=items))


class Neighbours:
    """The most similar items of every item."""

    def __init__(self, similar_NN: Matrix, decay: float) -> None:
        """Store s(i, j), CSR float32, without its small values (`most_similar`)."""
        self.similar_NN, self.decay = similar_NN, decay

    @classmethod
    def from_counts(
        cls,
        counts: Counts,
        asymmetry: float,
        shrinkage: float = SHRINKAGE,
    ) -> "Neighbours":
        """Compute neighbours from the counts of histories."""
        return cls(most_similar(*counts, asymmetry, shrinkage, KEPT), DECAY)

    def scores(self, histories: Histories) -> Matrix:
        """Return the scores of items for the users' histories, sparse CSR float32 [B, N]."""
        length_B = np.array([len(history) for history in histories], np.int64)
        offsets = np.concatenate([[0], np.cumsum(length_B)])
        item_K = np.concatenate([np.zeros(0, np.int64), *histories])
        back_K = np.repeat(offsets[1:], length_B) - 1 - np.arange(len(item_K))
        weight_K = np.float32(self.decay) ** back_K
        shape = (len(histories), self.similar_NN.shape[0])
        history_BN = sparse.csr_matrix((weight_K, item_K, offsets), shape, dtype=np.float32)
        return history_BN @ self.similar_NN

    def shares(
        self,
        histories: Histories,
        listable_N: npt.NDArray[np.bool_],
        left_out: tuple[Int64Array, Int64Array] | None,
    ) -> Shares:
        """Return each neighbour's share of the user's total squared score.

        Args:
            histories: histories of the users of a batch.
            listable_N: bool [N], the items that may be listed.
            left_out: (user, item) pairs that must not be listed; None for no such pairs.
        """
        found: Any = self.scores(histories).tocoo()
        user_P, item_P = found.row.astype(np.int64), found.col.astype(np.int64)
        kept_P = listable_N[item_P] & (found.data > 0)
        if left_out is not None:
            items = len(listable_N)
            kept_P &= ~np.isin(user_P * items + item_P, left_out[0] * items + left_out[1])
        user_P, item_P = user_P[kept_P], item_P[kept_P]
        score_P = found.data[kept_P].astype(np.float64) ** AMPLIFIED
        order = np.lexsort((item_P, user_P))
        user_P, item_P, score_P = user_P[order], item_P[order], score_P[order]
        total_B = np.bincount(user_P, score_P, minlength=len(histories))
        return Shares(user_P, item_P, (score_P / total_B[user_P]).astype(np.float32))


class MixedNeighbours:
    """Several kinds of neighbours, each with a weight."""

    def __init__(self, parts: Sequence[tuple[float, Neighbours]]) -> None:
        # Drop kinds with weight 0: their items must not become neighbours, even of a user who has
        # no other neighbours.
        self.parts = [(weight, known) for weight, known in parts if weight]

    def shares(
        self,
        histories: Histories,
        listable_N: npt.NDArray[np.bool_],
        left_out: tuple[Int64Array, Int64Array] | None,
    ) -> Shares:
        """Return the weighted sum of each kind's shares, as `Neighbours.shares` does.

        If a user has no neighbours of one kind, the other kinds have the whole weight.
        """
        items = len(listable_N)
        kinds = [known.shares(histories, listable_N, left_out) for _, known in self.parts]
        key_P = np.concatenate([kind.user_P * items + kind.item_P for kind in kinds])
        weights = [weight for weight, _ in self.parts]
        weighed_P = np.concatenate([w * k.share_P for w, k in zip(weights, kinds, strict=True)])
        key_P, which_P = np.unique(key_P, return_inverse=True)
        share_P = np.bincount(which_P, weighed_P, minlength=len(key_P))
        user_P, item_P = np.divmod(key_P, items)
        total_B = np.bincount(user_P, share_P, minlength=len(histories))
        return Shares(user_P, item_P, (share_P / total_B[user_P]).astype(np.float32))


AnyNeighbours = Neighbours | MixedNeighbours


def most_similar(
    parts: Sequence[Matrix],
    times_N: npt.NDArray[np.integer],
    asymmetry: float,
    shrinkage: float,
    kept: int,
) -> Matrix:
    """Return s(i, j) of the `kept` most similar items j of every item i, CSR float32 [N, N].

    Args:
        parts: matrices whose sum is c(i, j), each CSR [N, N]; the diagonal is ignored.
        times_N: c(i).
        asymmetry: a, 0..1.
        shrinkage: larger values reduce similarities that are based on few counts.
        kept: similar items per item; ties are broken by item index.
    """
    items, size_N = len(times_N), times_N.astype(np.float64)
    own_N, other_N = size_N**asymmetry, size_N ** (1 - asymmetry)
    bounds: Any = np.sum([part.indptr for part in parts], axis=0, dtype=np.int64)
    blocks: list[Matrix] = []
    begin = 0
    while begin < items:  # a few rows at a time, because the sort takes many times their memory
        most = bounds[begin] + PAIRS_AT_ONCE
        end = max(begin + 1, int(np.searchsorted(bounds, most, side="right")) - 1)
        block: Any = sum(part[begin:end] for part in parts)
        block = block.tocoo()
        row_P, column_P = block.row + begin, block.col
        similar_P = block.data / (own_N[row_P] * other_N[column_P] + shrinkage)
        similar_P[row_P == column_P] = 0
        order_P = np.lexsort((column_P, -similar_P, row_P))
        row_P, column_P, similar_P = block.row[order_P], column_P[order_P], similar_P[order_P]
        kept_P = np.arange(len(row_P)) - np.searchsorted(row_P, row_P) < kept
        kept_P &= similar_P > 0
        content = (similar_P[kept_P].astype(np.float32), (row_P[kept_P], column_P[kept_P]))
        blocks.append(sparse.csr_matrix(content, (end - begin, items)))
        begin = end
    return sparse.vstack(blocks, format="csr")
