"""Collaborative IDs: paths in a tree of clusters of the items that stand in the same histories.

Hua et al. 2023, "How to index item IDs for recommendation foundation models" (SIGIR-AP), section
on collaborative indexing. The graph: two items are joined by as many edges as there are pairs of
their interactions by one user, consecutive or not. Spectral clustering cuts it into `clusters`
parts, each part with more items than `tokens` is cut again on its own edges, and so on. A cluster's
token is its number in the order of the cuts, breadth first, modulo `tokens`; the last token of an
item is a random number among those of its cluster. All levels share one set of tokens. An item's ID
is the tokens on the way to it: its length is the depth of the item, and no ID begins another.

Where it departs, so that no graph is refused and the tree stays low:
- The normalised cut is that of A + (mean degree / n) 1 1^T (Amini et al. 2013, Annals of Statistics
  41, "Pseudo-likelihood methods for community detection"): a graph in several pieces is one then,
  and a few loose items do not take a cluster each.
- Items that stand with no other in any history are in a cluster of their own, as the paper's code
  gives those outside the training part an ID without a cluster.
- Below SPECTRAL_LEVELS cuts, or where a cut leaves all in one part, the items are dealt out evenly.

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
"""Stands behind the end of an ID that is shorter than others."""
SPECTRAL_LEVELS: Final = 5
DENSE: Final = 500
"""Items of a cluster up to which all its eigenvectors are computed: more exact, and as fast."""


def co_occurrence(training: Sequences, items: int) -> sparse.csr_matrix:
    """Edges [N, N] between different items: pairs of interactions of the same user."""
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
    """The ID of every item, [N, L]: numbers in 0..tokens-1, NONE behind the end; all different.

    Args:
        training: the only histories that are read.
        items: N.
        clusters: parts of a cut, below `tokens`.
        tokens: numbers that there are, and the most items of a cluster that is not cut.
        generator: of the last tokens.
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
    """The items of a part by cluster, two clusters at least."""
    if level < SPECTRAL_LEVELS:
        label_R = spectral_labels(edges_NN[part][:, part], clusters)
        found = [part[label_R == label] for label in np.unique(label_R)]
        if len(found) > 1:
            return found
    return np.array_split(part, clusters)


def spectral_labels(edges_RR: sparse.csr_matrix, clusters: int) -> Int64Array:
    """A cluster for every item, [R], by the leading eigenvectors of the normalised graph.

    One label for all where there are no edges. The eigenvectors are turned into clusters by a
    pivoted QR factorisation, as in the paper's code, which needs no start and so no seed (Damle,
    Minden and Ying 2019, Information and Inference 8, "Simple, direct and efficient multi-way
    spectral clustering").
    """
    degree_R = np.asarray(edges_RR.sum(axis=1)).ravel()
    count = len(degree_R)
    if not degree_R.any():
        return np.zeros(count, np.int64)
    everywhere = degree_R.mean()
    scale_R = 1 / np.sqrt(degree_R + everywhere)
    if count <= DENSE:
        graph_RR = edges_RR.toarray() + everywhere / count
        # All of them: a driver for some ("evr") finds none of equal ones on some CPUs.
        _, vectors_RR = linalg.eigh(scale_R[:, None] * graph_RR * scale_R, driver="evd")
        vectors_RK = vectors_RR[:, count - clusters :]
    else:

        def product(x_R: Float64Array) -> Float64Array:
            scaled_R = scale_R * x_R.ravel()
            return scale_R * (edges_RR @ scaled_R + everywhere * scaled_R.mean())

        operator: Any = LinearOperator  # its constructor gives one of several classes
        graph = operator((count, count), matvec=product, dtype=np.float64)
        start_R = np.random.default_rng(0).random(count)
        _, vectors_RK = eigsh(graph, clusters, which="LA", v0=start_R)
    factors: Any = linalg.qr(vectors_RK.T, mode="economic", pivoting=True)
    pivot_R = factors[-1]
    left_KK, _, right_KK = linalg.svd(vectors_RK[pivot_R[:clusters]].T)
    return np.abs(vectors_RK @ (left_KK @ right_KK)).argmax(axis=1)


def sequential_ids(training: Sequences, items: int, tokens: int) -> Int64Array:
    """Numbers in the order of first appearance, user after user, as digits in base `tokens` [N, L].

    Items of one history have near numbers (Hua et al. 2023, sequential indexing; P5's numbers,
    whose pieces are two digits, are such with base 100). Those that no history has come last.
    """
    first_N = np.full(items, len(training.items), np.int64)
    np.minimum.at(first_N, training.items, np.arange(len(training.items)))
    rank_N = np.empty(items, np.int64)
    rank_N[np.argsort(first_N, kind="stable")] = np.arange(items)
    levels = 1
    while tokens**levels < items:
        levels += 1
    return rank_N[:, None] // tokens ** np.arange(levels - 1, -1, -1) % tokens
