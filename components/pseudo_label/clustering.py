"""Clusters the vectors of one modality by k-means, seeded and independent of the thread count.

N items, R rows that have a vector, B rows of a batch, D components, K clusters
"""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans, kmeans_plusplus
from threadpoolctl import threadpool_limits

from components.pseudo_label.spec import Settings
from macrec.compute.powers import nearest_power_of_two
from macrec.core.errors import UserError
from macrec.core.progress import log
from macrec.data.vectors import Rows

ROWS_AT_ONCE = 2_048
"""Rows copied at a time where the result does not depend on it."""
ITEMS_PER_CLUSTER = 12
"""Mean number of items in a cluster, about, if the number of clusters is automatic."""
MOST_CLUSTERS = 512
"""Maximum number of clusters if it is automatic; the paper's number."""


class Clustering(NamedTuple):
    """The clusters of the items that have a vector."""

    labels_N: NDArray[np.int32]
    """-1 where there is no vector"""
    clusters: int
    """K after the cap"""
    inertia: float
    """mean squared distance of a vector to its centre"""


class Vectors:
    """The rows of a matrix, on disk or in memory, that have a vector; normalised when read."""

    def __init__(self, matrix_ND: Rows, valid_N: NDArray[np.bool_], *, normalise: bool) -> None:
        self.rows = np.flatnonzero(valid_N)
        self._matrix_ND, self._normalise = matrix_ND, normalise

    def read(self, which_B: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Return copies of some of the rows."""
        batch_BD = np.array(self._matrix_ND[self.rows[which_B]], np.float32)
        if self._normalise:
            norm_B = np.sqrt(np.square(batch_BD).sum(1, keepdims=True))
            batch_BD /= np.where(norm_B > 0, norm_B, 1)
        return batch_BD

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield all rows in order, a bounded number at a time."""
        for start in range(0, len(self.rows), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            yield part, self.read(part)


def cluster(matrix_ND: Rows, valid_N: NDArray[np.bool_], config: Settings, name: str) -> Clustering:
    """Cluster the valid rows; without any, there are no clusters.

    Raises:
        UserError: a vector is not finite.
    """
    labels_N = np.full(len(matrix_ND), -1, np.int32)
    vectors = Vectors(matrix_ND, valid_N, normalise=config.normalise)
    if not len(vectors.rows):
        log.info("%s: no item has a vector, so none gets a label", name)
        return Clustering(labels_N, 0, 0.0)
    distinct = count_distinct(vectors, name)
    wanted = config.clusters or automatic_clusters(len(vectors.rows))
    clusters = cap_clusters(wanted, distinct, config.min_items_per_cluster)
    if not config.clusters:
        log.info("%s: %d clusters for %s items (auto)", name, clusters, f"{len(vectors.rows):,}")
    elif clusters < wanted:
        log.warning(
            "%s: %s clusters instead of %s, because there are only %s distinct vectors "
            "(min_items_per_cluster=%s)",
            name,
            *(f"{n:,}" for n in (clusters, wanted, distinct)),
            config.min_items_per_cluster,
        )
    # Threads add up their parts in the order in which they finish; one thread gives one result.
    with threadpool_limits(1), warnings.catch_warnings():
        # The stage's metrics report it if there are fewer clusters than requested.
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        streamed = len(vectors.rows) > config.minibatch_above
        fit = _fit_streamed if streamed else _fit_in_memory
        labels_N[vectors.rows], inertia = fit(vectors, clusters, config)
    return Clustering(labels_N, clusters, inertia)


def automatic_clusters(items: int) -> int:
    """Return the number of clusters that suits a number of items."""
    return nearest_power_of_two(items / ITEMS_PER_CLUSTER, 2, MOST_CLUSTERS)


def cap_clusters(clusters: int, distinct: int, min_items: int) -> int:
    """Return the number of clusters that the catalogue can fill.

    On average a cluster has at least `min_items` distinct vectors. A label is useful only through
    the other items that share it, so a cluster of one item has no value. At least two clusters are
    used, because one cannot distinguish any items.
    """
    return min(clusters, distinct, max(2, distinct // min_items))


def count_distinct(vectors: Vectors, name: str) -> int:
    """Return the number of distinct vectors, judged by a 64-bit hash of each."""
    hashes: list[NDArray[np.uint64]] = []
    broken = 0
    for _, chunk_BD in vectors.chunks():
        broken += int((~np.isfinite(chunk_BD).all(1)).sum())
        bits_BD = (chunk_BD + np.float32(0)).view(np.uint32).astype(np.uint64)  # -0 becomes 0
        # A hash must not depend on the vector's row, as the rounding of a float product may.
        weights_D = np.random.default_rng(0).integers(2**63, size=bits_BD.shape[1], dtype=np.uint64)
        hashes.append(bits_BD @ (2 * weights_D + 1))
    if broken:
        raise UserError(
            f"{name}: {broken:,} of {len(vectors.rows):,} vectors are not finite. "
            "Rerun the embedding stage."
        )
    return len(np.unique(np.concatenate(hashes)))


def _fit_in_memory(
    vectors: Vectors, clusters: int, config: Settings
) -> tuple[NDArray[np.int32], float]:
    settings: dict[str, Any] = {
        "init": "k-means++",
        "n_init": 1,
        "max_iter": config.max_iterations,
        "random_state": config.seed,
        "copy_x": False,
        "algorithm": "lloyd",
    }
    model: Any = KMeans(clusters, **settings)
    labels_R = model.fit_predict(vectors.read(slice(None)))
    return labels_R.astype(np.int32), float(model.inertia_) / len(labels_R)


def _fit_streamed(
    vectors: Vectors, clusters: int, config: Settings
) -> tuple[NDArray[np.int32], float]:
    rng = np.random.default_rng(config.seed)
    items, batch = len(vectors.rows), max(config.batch_items, clusters)
    sample = rng.permutation(items)[: max(batch, 8 * clusters)]
    centres_KD, _ = kmeans_plusplus(
        vectors.read(np.sort(sample)), clusters, random_state=config.seed
    )
    settings: dict[str, Any] = {"init": centres_KD, "n_init": 1, "random_state": config.seed}
    model: Any = MiniBatchKMeans(clusters, **settings)
    for _ in range(config.passes):
        # Adjacent catalogue rows are similar, so batches in that order would follow one category.
        for which_B in np.array_split(rng.permutation(items), max(1, items // batch)):
            model.partial_fit(vectors.read(np.sort(which_B)))

    labels_R, total = np.empty(items, np.int32), 0.0
    for part, chunk_BD in vectors.chunks():
        labels_R[part] = model.predict(chunk_BD)
        centre_BD = model.cluster_centers_[labels_R[part]]
        total += float(np.square(chunk_BD - centre_BD).sum(dtype=np.float64))
    return labels_R, total / len(labels_R)
