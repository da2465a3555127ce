"""Look-alikes: each item's neighbours by similarity of their latents.

Latents are the quantizer's encodings of text, image and histories before quantization. An item's
vector joins its text latent and its image latent. Each is centred on the catalogue's mean and
scaled to length one; the joined vector is scaled to length one again. The similarity of two items
is a power of their cosine. An item that occurs in no history has look-alikes too.

A catalogue of millions has too many pairs. There, each item is compared only with items that share
a prefix of its text code or of its image code. The prefix is as short as possible for the group to
be small enough.

Shape suffixes: N items, D dimensions, G items of a group, L levels, P pairs.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from macrec.core.artifact import Artifact
from macrec.data.columns import codes_matrix, embedding_matrix, valid_rows
from macrec.data.cooccurrence import Matrix
from macrec.generator.tokens import MODALITIES
from macrec.ranking.neighbours import DECAY, Neighbours

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

POWER: Final = 8
"""Exponent of the cosine, so that many weak similarities do not outweigh a strong one."""
KEPT: Final = 50
COMPARED: Final = 8192
"""Maximum number of items that an item is compared with, for each of its codes."""
ROWS_AT_ONCE: Final = 1024


def similar_item_neighbours(latents: Artifact) -> Neighbours | None:
    """Return the look-alikes of a catalogue, or None if no item has any."""
    codes = [codes_matrix(latents, f"{modality}_codes") for modality in MODALITIES]
    alike = Neighbours(most_similar_items(unit_vectors(latents), codes), DECAY)
    return alike if alike.similar_NN.nnz else None


def unit_vectors(latents: Artifact) -> Float32Array:
    """Return text and image latents, joined and scaled to length one [N, D].

    The row is 0 if an item has neither.
    """
    parts: list[Float32Array] = []
    for modality in MODALITIES:
        column = f"{modality}_latent"
        vector_ND, present_N = embedding_matrix(latents, column), valid_rows(latents, column)
        part_ND = np.zeros(vector_ND.shape, np.float32)
        if present_N.any():
            part_ND[present_N] = vector_ND[present_N] - vector_ND[present_N].mean(axis=0)
        parts.append(_normalize(part_ND))
    return _normalize(np.concatenate(parts, axis=1))


def _normalize(vector_ND: Float32Array) -> Float32Array:
    length_N1 = np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return np.divide(vector_ND, length_N1, out=np.zeros_like(vector_ND), where=length_N1 > 0)


def most_similar_items(vector_ND: Float32Array, codes: list[npt.NDArray[np.integer]]) -> Matrix:
    """Return the similarities of every item's KEPT most similar items, CSR float32 [N, N].

    Args:
        vector_ND: vectors of length one; an item with a vector of 0 has no look-alikes.
        codes: codes that divide a large catalogue into groups, each [N, L]. A row of -1 is an
            item without a code.
    """
    items, found = len(vector_ND), list[Matrix]()
    for code_NL in codes:
        nothing = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        parts = [
            _nearest(vector_ND, group_G, start)
            for group_G in _groups(code_NL)
            for start in range(0, len(group_G), ROWS_AT_ONCE)
        ]
        row_P, column_P, value_P = map(np.concatenate, zip(nothing, *parts, strict=True))
        found.append(sparse.csr_matrix((value_P, (row_P, column_P)), (items, items)))
        if items <= COMPARED:  # all items form one group, whatever the codes
            break
    alike_NN: Any = found[0]
    for other in found[1:]:
        alike_NN = alike_NN.maximum(other)
    return alike_NN.tocsr()


def _groups(code_NL: npt.NDArray[np.integer]) -> Iterator[Int64Array]:
    """Yield the groups of items that are compared with each other.

    The items of a group share a prefix, the shortest that at most COMPARED items share. If more
    items share a whole code, they are split into several groups.
    """
    left = np.arange(len(code_NL))
    if len(left) <= COMPARED:
        yield left
        return
    left = left[code_NL[left, 0] >= 0] if code_NL.shape[1] else left[:0]
    for depth in range(1, code_NL.shape[1] + 1):
        left = left[np.lexsort(code_NL[left, :depth].T[::-1])]
        changes = (np.diff(code_NL[left, :depth], axis=0) != 0).any(axis=1)
        parts = np.split(left, np.flatnonzero(changes) + 1) if len(left) else []
        yield from (part for part in parts if len(part) <= COMPARED)
        large = [part for part in parts if len(part) > COMPARED]
        left = np.concatenate([left[:0], *large])
        if depth == code_NL.shape[1]:
            for part in large:
                yield from np.array_split(part, -(-len(part) // COMPARED))


def _nearest(
    vector_ND: Float32Array, group_G: Int64Array, start: int
) -> tuple[Int64Array, Int64Array, Float32Array]:
    """Return the most similar items of some items of a group, as pairs, and their similarities.

    `start` is the position of the first of these items in the group.
    """
    row = group_G[start : start + ROWS_AT_ONCE]
    cosine = vector_ND[row] @ vector_ND[group_G].T
    own = np.arange(len(row))
    cosine[own, start + own] = 0.0
    most = min(KEPT, len(group_G))
    place = np.argpartition(-cosine, most - 1, axis=1)[:, :most]
    value = np.take_along_axis(cosine, place, axis=1).ravel()
    kept_P = value > 0
    row_P, column_P = np.repeat(row, most)[kept_P], group_G[place.ravel()[kept_P]]
    return row_P, column_P, value[kept_P] ** POWER
