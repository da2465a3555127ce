"""Computes item vectors from co-occurrence: counts, their mutual information, its SVD.

The singular vectors of the positive pointwise mutual information are what word2vec learns, without
its training (Levy and Goldberg 2014).

Until the matrix is factorised, counts are kept only for item a < item b. With P distinct pairs and
N items the memory is the larger of 36 P and 16 P + 16 N D bytes. 30 million interactions of 1
million items with 58 million pairs took 2.3 GB. At a window of 3 there can be 90 million pairs, 3.3
GB.

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
"""Minimum length of an item's vector as a share of the length of its matrix row. Below it the
vector is only the error of the randomised decomposition. An item that is separate from all others
has 0.0002 there; the others have more than 0.03."""


class HistoryVectors(NamedTuple):
    """Vectors of the items from co-occurrence in histories."""

    matrix_ND: NDArray[np.float32]
    """vectors of unit length; rows that are not valid have no meaning"""
    valid_N: NDArray[np.bool_]
    met_N: NDArray[np.int64]
    """number of times the item co-occurred with another"""
    interactions: int = 0
    """interactions in the training parts"""
    pairs: int = 0
    """distinct pairs of items that co-occurred at least once"""
    energy: float = 0.0
    """share of the sum of squared singular values that the components cover"""


def no_vectors(met_N: NDArray[np.int64], interactions: int = 0) -> HistoryVectors:
    """Return null vectors of one component."""
    matrix_N1 = np.zeros((len(met_N), 1), np.float32)
    return HistoryVectors(matrix_N1, np.zeros(len(met_N), bool), met_N, interactions)


def embed(sequences: Artifact, items: int, config: Settings) -> HistoryVectors:
    """Return the vectors of all items, computed from the training parts of the histories alone.

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
            "embed_histories: no two items occur near each other in the training part of a "
            "history, so no item gets a vector"
        )
        return no_vectors(met_N, interactions)
    dim = min(config.dim, met - 1)
    if dim < config.dim:
        log.warning(
            "embed_histories: %s components instead of %s, because only %s items occur near "
            "another one in the training part of a history",
            *(f"{n:,}" for n in (dim, config.dim, met)),
        )
    information_NN = positive_information(counts_NN, met_N)
    del counts_NN  # frees memory for the decomposition
    matrix_ND, valid_N, energy = _factorise(information_NN, dim, config.seed)
    return HistoryVectors(matrix_ND, valid_N, met_N, interactions, pairs, energy)


def positive_information(counts_NN: Matrix, met_N: NDArray[np.int64]) -> Matrix:
    """Return max(0, log(c_ab total / (c_a c_b))) of items a and b, symmetric, float32 [N, N].

    c_a is the number of times a co-occurred with another item; total is the sum over all items.
    """
    weight_N = met_N.astype(np.float64)
    information_P = np.repeat(weight_N, np.diff(counts_NN.indptr))
    information_P *= weight_N[counts_NN.indices]
    np.divide(counts_NN.data, information_P, out=information_P)
    information_P *= weight_N.sum()
    np.log(np.maximum(information_P, 1, out=information_P), out=information_P)
    content = (information_P.astype(np.float32), counts_NN.indices, counts_NN.indptr)
    upper_NN: Matrix = sparse.csr_array(content, counts_NN.shape)
    del information_P  # the sum below is the peak of memory use
    return upper_NN + upper_NN.T


def _factorise(
    information_NN: Matrix, dim: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], float]:
    """Return unit rows of singular vectors times values, which rows are valid, and the energy."""
    model: Any = TruncatedSVD(dim, random_state=seed)
    # Threads add up their parts in the order in which they finish; one thread gives one result.
    with threadpool_limits(1):
        matrix_ND = model.fit_transform(information_NN)
    length_N, whole_N = row_norms(matrix_ND), row_norms(information_NN)
    # both lengths are 0 for an item that never co-occurs
    valid_N = length_N > LEAST_SHARE * whole_N
    matrix_ND /= np.where(valid_N, length_N, 1)[:, None]
    explained = np.square(model.singular_values_, dtype=np.float64).sum()
    energy = float(explained / np.square(whole_N, dtype=np.float64).sum())
    return matrix_ND, valid_N, energy
