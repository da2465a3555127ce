"""Collaborative IDs: paths in a tree of item clusters, built from co-occurrence in histories.

Source: Hua et al. 2023, "How to index item IDs for recommendation foundation models" (SIGIR-AP),
section on collaborative indexing. In the co-occurrence graph, each pair of interactions of the same
user with two items adds an edge between them, consecutive or not. Spectral clustering splits the
graph into `clusters` parts. Each part with more than `tokens` items is split again on its own
edges, and so on.

The token of a cluster is its index in breadth-first order, modulo `tokens`. The last token of an
item is random and unique within its cluster. All levels share one set of tokens. The ID of an item
is the sequence of tokens on the path to it. Its length is the depth of the item, and no ID is a
prefix of another.

Differences from the paper; with them every graph can be processed and the tree stays shallow:
- The normalised cut is computed on A + (mean degree / n) 1 1^T (Amini et al. 2013, Annals of
  Statistics 41, "Pseudo-likelihood methods for community detection"). A disconnected graph becomes
  connected, and a few weakly connected items do not form a cluster each.
- Items that co-occur with no other item form a cluster of their own. In the same way, the paper's
  code gives items outside the training part an ID without a cluster.
- Deeper than SPECTRAL_LEVELS levels, or if a cut leaves all items in one part, the items are split
  into parts of equal size.

Shapes: N items, R items of a cluster, K clusters, L levels, P pairs.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from macrec.data.sequences import Sequences

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

NONE: Final = -1
"""Fills the positions after the end of an ID that is shorter than others."""
SPECTRAL_LEVELS: Final = 5
DENSE: Final = 500
"""Largest cluster for which all eigenvectors are computed, in items. This is more accurate and
equally fast."""


def co_occurrence(training: Sequences, items: int) -> sparse.csr_matrix:
    """Count the edges between different items, [N, N].

    An edge is a pair of interactions of the same user.
    """
    user_K = np.repeat(np.arange(len(training)), np.diff(training.offsets))
    shape = (len(training), items)
    taken_UN = sparse.coo_matrix((np.ones(len(user_K)), (user_K, training.items)), shape).tocsr()
    both: Any = (taken_UN.T @ taken_UN).tocoo()
    other_P = both.row != both.col
    pairs = (both.data[other_P], (both.row[other_P], both.col[other_P]))
    return sparse.csr_matrix(pairs, (items, items))


def collaborative_ids(
    training: Sequences, items: int, clusters: int, tokens: int, generator: np.random.Generator
) -> Int64Array:
    """Return the unique ID of every item, [N, L]: tokens in 0..tokens-1, then NONE up to L.

    Args:
        training: the histories; nothing else is read.
        items: N.
        clusters: number of parts per cut, below `tokens`.
        tokens: number of tokens, and the largest cluster that is not split.
        generator: draws the last tokens.
    """
    assert 2 <= clusters < tokens
    edges_NN = co_occurrence(training, items)
    loose_N = np.diff(edges_NN.indptr) == 0
    joined, loose = np.flatnonzero(~loose_N), np.flatnonzero(loose_N)
    parts = _cut(edges_NN, joined, clusters, 0) if len(joined) > tokens else [joined]
    pending = [(part, 1) for part in (*parts, loose) if len(part)]
    columns = [np.full(items, NONE, np.int64)]
    for number, (part, _) in enumerate(pending):
        columns[0][part] = number % tokens
    number = len(pending)
    while pending:
        part, level = pending.pop(0)
        if level == len(columns):
            columns.append(np.full(items, NONE, np.int64))
        if len(part) <= tokens:
            columns[level][part] = generator.choice(tokens, len(part), replace=False)
            continue
        cuts = _cut(edges_NN, part, clusters, level)
        for child in cuts:
            columns[level][child] = number % tokens
            number += 1
        pending += [(child, level + 1) for child in cuts]
    return np.stack(columns, axis=1)


def _cut(edges_NN: Any, part: Int64Array, clusters: int, level: int) -> list[Int64Array]:
    """Split the items of a part into at least two clusters."""
    if level < SPECTRAL_LEVELS:
        label_R = spectral_labels(edges_NN[part][:, part], clusters)
        found = [part[label_R == label] for label in np.unique(label_R)]
        if len(found) > 1:
            return found
    return np.array_split(part, clusters)


def spectral_labels(edges_RR: sparse.csr_matrix, clusters: int) -> Int64Array:
    """Cluster the items by the leading eigenvectors of the normalised graph, [R].

    All items have the same label if the graph has no edges. A pivoted QR factorisation turns the
    eigenvectors into clusters, as in the paper's code. It needs no initialisation and therefore no
    seed (Damle, Minden and Ying 2019, Information and Inference 8, "Simple, direct and efficient
    multi-way spectral clustering").
    """
    degree_R = np.asarray(edges_RR.sum(axis=1)).ravel()
    count = len(degree_R)
    if not degree_R.any():
        return np.zeros(count, np.int64)
    everywhere = degree_R.mean()
    scale_R = 1 / np.sqrt(degree_R + everywhere)
    if count <= DENSE:
        graph_RR = edges_RR.toarray() + everywhere / count
        # Compute all of them: on some CPUs the driver for a subset ("evr") fails to find
        # eigenvectors of equal eigenvalues.
        _, vectors_RR = linalg.eigh(scale_R[:, None] * graph_RR * scale_R, driver="evd")
        vectors_RK = vectors_RR[:, count - clusters :]
    else:

        def product(x_R: Float64Array) -> Float64Array:
            scaled_R = scale_R * x_R.ravel()
            return scale_R * (edges_RR @ scaled_R + everywhere * scaled_R.mean())

        operator: Any = LinearOperator  # its constructor returns one of several classes
        graph = operator((count, count), matvec=product, dtype=np.float64)
        start_R = np.random.default_rng(0).random(count)
        _, vectors_RK = eigsh(graph, clusters, which="LA", v0=start_R)
    factors: Any = linalg.qr(vectors_RK.T, mode="economic", pivoting=True)
    pivot_R = factors[-1]
    left_KK, _, right_KK = linalg.svd(vectors_RK[pivot_R[:clusters]].T)
    return np.abs(vectors_RK @ (left_KK @ right_KK)).argmax(axis=1)


def sequential_ids(training: Sequences, items: int, tokens: int) -> Int64Array:
    """Number items by first appearance, user by user, as digits in base `tokens`, [N, L].

    Items of one history have similar numbers (Hua et al. 2023, sequential indexing). The numbers of
    P5, which are tokenised into pieces of two digits, are the case of base 100. Items without
    training interactions come last.
    """
    first_N = np.full(items, len(training.items), np.int64)
    np.minimum.at(first_N, training.items, np.arange(len(training.items)))
    rank_N = np.empty(items, np.int64)
    rank_N[np.argsort(first_N, kind="stable")] = np.arange(items)
    levels = 1
    while tokens**levels < items:
        levels += 1
    return rank_N[:, None] // tokens ** np.arange(levels - 1, -1, -1) % tokens
