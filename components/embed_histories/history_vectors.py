"""Item vectors from co-occurrence in histories: counts, their information, its singular vectors.

Levy and Goldberg 2014: the singular vectors of the positive pointwise mutual information are what
word2vec learns, without its training.

Counts are kept for item a < item b alone until the matrix is factorised. With P different pairs and
N items the memory is the larger of 36 P and 16 P + 16 N D bytes: 30 million interactions of 1
million items with 58 million pairs took 2.3 GB; at a window of 3 they can have 90 million, 3.3 GB.

N items, K training interactions, P pairs, D components
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.utils.extmath import row_norms
from threadpoolctl import threadpool_limits

from components.embed_histories.spec import Settings
from macrec.core.artifact import Artifact
from macrec.core.progress import log
from macrec.data.cooccurrence import Matrix, count_neighbours
from macrec.data.sequences import read_sequences

LEAST_SHARE = 0.001
"""Below this share of the length of an item's row of the matrix, its vector is but the error of the
randomised decomposition: an item apart from all others has 0.0002 there, others above 0.03."""


class HistoryVectors(NamedTuple):
    """What the histories say of the items."""

    matrix_ND: NDArray[np.float32]
    """of length one; a row that is not valid has no meaning"""
    valid_N: NDArray[np.bool_]
    met_N: NDArray[np.int64]
    """how often the item stood near another"""
    interactions: int = 0
    """in the training parts"""
    pairs: int = 0
    """of two different items that stood near each other at least once"""
    energy: float = 0.0
    """share of the sum of the squared singular values that the components hold"""


def no_vectors(met_N: NDArray[np.int64], interactions: int = 0) -> HistoryVectors:
    """Null vectors of one component."""
    matrix_N1 = np.zeros((len(met_N), 1), np.float32)
    return HistoryVectors(matrix_N1, np.zeros(len(met_N), bool), met_N, interactions)


def embed(sequences: Artifact, items: int, config: Settings) -> HistoryVectors:
    """The vectors of all items, from the training parts of the histories alone.

    Raises:
        UserError: an interaction names an item outside the catalogue.
    """
    training = read_sequences(sequences, items).training()
    interactions = len(training.items)
    counts_NN = count_neighbours(training, items, config.window)
    del training
    met_N = np.asarray(counts_NN.sum(0), np.int64) + np.asarray(counts_NN.sum(1), np.int64)
    met, pairs = int((met_N > 0).sum()), int(counts_NN.nnz)
    if not met:
        log.warning(
            "embed_histories: no item stands near another in the training part of a history, "
            "so none gets a vector"
        )
        return no_vectors(met_N, interactions)
    dim = min(config.dim, met - 1)
    if dim < config.dim:
        log.warning(
            "embed_histories: %s components instead of %s, for only %s items stand near another "
            "in the training part of a history",
            *(f"{n:,}" for n in (dim, config.dim, met)),
        )
    information_NN = positive_information(counts_NN, met_N)
    del counts_NN  # the decomposition has a use for its memory
    matrix_ND, valid_N, energy = _factorised(information_NN, dim, config.seed)
    return HistoryVectors(matrix_ND, valid_N, met_N, interactions, pairs, energy)


def positive_information(counts_NN: Matrix, met_N: NDArray[np.int64]) -> Matrix:
    """max(0, log(c_ab total / (c_a c_b))) of items a and b, symmetric, float32 [N, N].

    c_a is how often a stood near another item, and total the sum over all items.
    """
    weight_N = met_N.astype(np.float64)
    information_P = np.repeat(weight_N, np.diff(counts_NN.indptr))
    information_P *= weight_N[counts_NN.indices]
    np.divide(counts_NN.data, information_P, out=information_P)
    information_P *= weight_N.sum()
    np.log(np.maximum(information_P, 1, out=information_P), out=information_P)
    content = (information_P.astype(np.float32), counts_NN.indices, counts_NN.indptr)
    upper_NN: Matrix = sparse.csr_array(content, counts_NN.shape)
    del information_P  # the sum is the peak of the memory
    return upper_NN + upper_NN.T


def _factorised(
    information_NN: Matrix, dim: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], float]:
    """Singular vectors times singular values, rows of length one; which are valid; the energy."""
    model: Any = TruncatedSVD(dim, random_state=seed)
    # Threads add up their shares in the order in which they end: one thread, one result.
    with threadpool_limits(1):
        matrix_ND = model.fit_transform(information_NN)
    length_N, whole_N = row_norms(matrix_ND), row_norms(information_NN)
    valid_N = length_N > LEAST_SHARE * whole_N  # neither has length for an item never met
    matrix_ND /= np.where(valid_N, length_N, 1)[:, None]
    held = np.square(model.singular_values_, dtype=np.float64).sum()
    energy = float(held / np.square(whole_N, dtype=np.float64).sum())
    return matrix_ND, valid_N, energy
