"""Item vectors for the models that read them: standardisation, projection, clustering.

An item without a vector of a modality has a row of zeros and is marked as absent. It never receives
the vector of another item.

Shape suffixes: N items, E components, P positions, M modalities, D width, K clusters.
"""

import warnings
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits
from torch import nn

from components.baselines.interface import Data, Float32Array, State
from macrec.core.errors import UserError, check
from macrec.data.vectors import read_vectors

ALL_AT_ONCE: Final = 50_000
"""Largest number of vectors for k-means over all of them. Larger inputs use mini-batch k-means."""
SUFFIXES: Final = (":vectors", ":present")


class Modality(NamedTuple):
    """Vectors of one modality. Row k belongs to item k."""

    matrix_NE: Float32Array
    present_N: npt.NDArray[np.bool_]


Modalities = dict[str, Modality]
"""Modalities by name, in alphabetical order; a saved model has the same order."""


def read_modalities(data: Data) -> Modalities:
    """Read the vectors of each modality that the model uses and standardise them.

    Raises:
        UserError: the number of rows differs from the number of items, no item has a vector, or
            some vectors are not finite.
    """
    found: Modalities = {}
    for name, artifact in sorted(data.given.items()):
        check(
            artifact.rows == data.items,
            f"{artifact.path}: {artifact.rows:,} rows for {data.items:,} items. Give the vectors "
            "of the same catalogue.",
        )
        vectors = read_vectors(artifact)
        present_N = vectors.present_N
        if not present_N.any():
            raise UserError(
                f"{artifact.path}: none of {data.items:,} items has a vector. Give others, or a "
                "model that reads none."
            )
        matrix_NE = np.array(vectors.matrix_NE[:], np.float32)
        broken = int((~np.isfinite(matrix_NE).all(axis=1)).sum())
        check(
            not broken,
            f"{artifact.path}: {broken:,} of {data.items:,} vectors are not finite. Give others.",
        )
        found[name] = Modality(standardise(matrix_NE, present_N), present_N)
    return found


def standardise(matrix_NE: Float32Array, present_N: npt.NDArray[np.bool_]) -> Float32Array:
    """Normalise the vectors to unit length, subtract their mean, and scale to an average variance
    of 1."""
    kept_KE = matrix_NE[present_N]
    norm_K = np.linalg.norm(kept_KE, axis=1, keepdims=True)
    kept_KE = kept_KE / np.where(norm_K > 0, norm_K, 1)
    kept_KE -= kept_KE.mean(axis=0)
    spread = np.sqrt(np.square(kept_KE).mean())
    out_NE = np.zeros_like(matrix_NE)
    out_NE[present_N] = kept_KE / (spread if spread > 0 else 1)
    return out_NE


class Clusters(NamedTuple):
    """Cluster labels of the items and the cluster centres."""

    label_N: npt.NDArray[np.int64]
    """-1 for an item without a vector."""
    centre_KE: Float32Array


def cluster_items(modality: Modality, clusters: int, seed: int) -> Clusters:
    """Cluster the items that have a vector by k-means.

    The number of clusters is at most the number of these items. One thread is used, so that sums,
    and with them the clusters, depend only on the seed and not on the machine.
    """
    kept_KE = modality.matrix_NE[modality.present_N]
    kind = KMeans if len(kept_KE) <= ALL_AT_ONCE else MiniBatchKMeans
    settings: dict[str, Any] = {"n_init": 1, "random_state": seed}
    model: Any = kind(min(clusters, len(kept_KE)), **settings)
    with threadpool_limits(1), warnings.catch_warnings():
        # With duplicate vectors some clusters stay empty. This is harmless: no item has their
        # label.
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        model.fit(kept_KE)
    label_N = np.full(len(modality.present_N), -1, np.int64)
    label_N[modality.present_N] = model.labels_
    return Clusters(label_N, np.asarray(model.cluster_centers_, np.float32))


class ProjectedVectors(NamedTuple):
    """Vectors projected to the width of the network."""

    vector_PMD: torch.Tensor
    """Zeros where the item has no vector."""
    present_PM: torch.Tensor


class Projection(nn.Module):
    """One linear layer per modality. Index N is the padding, which has no vector."""

    def __init__(self, modalities: Modalities, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(m.matrix_NE.shape[1], width) for m in modalities.values()]
        )
        present_NM = np.stack([np.append(m.present_N, False) for m in modalities.values()], 1)
        self.register_buffer("present_NM", torch.from_numpy(present_NM), persistent=False)
        for place, (matrix_NE, _) in enumerate(modalities.values()):
            padded_NE = torch.from_numpy(np.pad(matrix_NE, ((0, 1), (0, 0))))
            # not in the state dict: they never change, and each stored copy would contain them
            self.register_buffer(f"vectors_{place}", padded_NE, persistent=False)

    def forward(self, item_P: torch.Tensor) -> ProjectedVectors:
        """Return the projected vectors of some items, [P, M, D]."""
        present_PM = self.get_buffer("present_NM")[item_P]
        parts = [
            layer(self.get_buffer(f"vectors_{place}")[item_P])
            for place, layer in enumerate(self.layers)
        ]
        vector_PMD = torch.stack(parts, 1) * present_PM[..., None]  # absent ones get no bias
        return ProjectedVectors(vector_PMD, present_PM)


def as_state(modalities: Modalities) -> State:
    """Return the vectors as arrays of a saved model, since `load` receives no artifacts."""
    state: State = {}
    for name, modality in modalities.items():
        state |= {name + end: part for end, part in zip(SUFFIXES, modality, strict=True)}
    return state


def from_state(state: State) -> tuple[Modalities, State]:
    """Split the arrays of a saved model into the vectors and the remaining arrays."""
    names = sorted(key.removesuffix(SUFFIXES[0]) for key in state if key.endswith(SUFFIXES[0]))
    modalities = {name: Modality(*(state[name + end] for end in SUFFIXES)) for name in names}
    others = {key: value for key, value in state.items() if not key.endswith(SUFFIXES)}
    return modalities, others
