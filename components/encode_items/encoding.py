"""The latents and codes of a catalogue under a frozen quantizer, and those of the version before.

Shape suffixes: N items, B rows of a chunk, E embedding size, D latent size, L levels.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from macrec.arrays import codes_matrix
from macrec.artifact import Artifact
from macrec.centring import subtracted, trained_on
from macrec.errors import check
from macrec.histories import load_histories
from macrec.progress import Progress
from macrec.quantizer import CrossModalQuantizer
from macrec.vectors import ItemVectors, Rows, ScratchMatrix, read_vectors

if TYPE_CHECKING:
    from components.encode_items.main import Inputs

CHUNK = 8_192
IN_MEMORY_BYTES = 1 << 30


class Version(NamedTuple):
    """One modality of a catalogue; rows of codes of items without it are -1."""

    latents_ND: Rows
    nearest_NL: np.ndarray
    """The quantizer's own codes of the latents, collisions included."""
    codes_NL: np.ndarray
    """The semantic IDs; equal to `nearest_NL` as long as none are chosen."""


def scratch(rows: int, dim: int) -> "np.ndarray | ScratchMatrix":
    """A float32 matrix [rows, dim] of zeros; above 1 GiB it lies on disk."""
    if rows * dim * 4 > IN_MEMORY_BYTES:
        return ScratchMatrix(rows, dim)
    return np.zeros((rows, dim), np.float32)


def encode(model: CrossModalQuantizer, inputs: "Inputs") -> dict[str, Version]:
    """Encodes the new catalogue in every modality that the quantizer has.

    Raises:
        UserError: the vectors are not of the quantizer's kind, or a modality has none at all.
    """
    histories = load_histories(inputs.quantizer)
    joined = histories.dim if histories else 0
    vectors = {n: _vectors(n, dim - joined, inputs) for n, dim in model.spec.dims.items()}
    item_ids = inputs.items.table(["item_id"]).column(0).combine_chunks()
    means = trained_on(inputs.quantizer)
    shifts = {n: subtracted(getattr(inputs, f"{n}_embeddings")) - means[n] for n in vectors}
    count = inputs.items.rows
    latents = {n: scratch(count, model.modality(n).latent_dim) for n in vectors}
    codes = {n: np.full((count, model.spec.levels), -1, np.int32) for n in vectors}
    with Progress("encode items", count, "items") as progress:
        for start in range(0, count, CHUNK):
            rows = slice(start, min(start + CHUNK, count))
            content = {
                name: ItemVectors(
                    matrix_NE[rows].astype(np.float32) + shifts[name], present_N[rows]
                )
                for name, (matrix_NE, present_N) in vectors.items()
            }
            if histories:
                content = histories.join(content, item_ids[rows])
            given = {n: torch.from_numpy(found.matrix_NE[:]) for n, found in content.items()}
            present = {n: torch.from_numpy(found.present_N) for n, found in content.items()}
            for name, encoded in model.encode(given, present).items():
                here_B1 = present[name].numpy()[:, None]
                latents[name][rows] = encoded.latents_ND.cpu().numpy()
                codes[name][rows] = np.where(here_B1, encoded.codes_NL.cpu().numpy(), -1)
            progress.advance(rows.stop - rows.start)
    return {name: Version(latents[name], codes[name], codes[name]) for name in vectors}


def _vectors(name: str, dim: int, inputs: "Inputs") -> ItemVectors:
    artifact: Artifact = getattr(inputs, f"{name}_embeddings")
    vectors = read_vectors(artifact)
    check(
        len(vectors.present_N) == inputs.items.rows,
        f"encode_items: {inputs.items.rows:,} items but {len(vectors.present_N):,} {name} vectors. "
        "Give the artifacts of one run.",
    )
    check(
        bool(vectors.present_N.any()),
        f"encode_items: no item has {name} vectors, but the quantizer was trained on some. "
        f"Give the {name} encoder or the ready vectors as in the earlier run.",
    )
    found = vectors.matrix_NE.shape[1]
    check(
        found == dim,
        f"encode_items: {name} vectors have {found} components, those that the quantizer was "
        f"trained on {dim}. Use the encoder of that run.",
    )
    return vectors


def previous(model: CrossModalQuantizer, inputs: "Inputs") -> dict[str, Version]:
    """The version before, in every modality that the quantizer has.

    Raises:
        UserError: its artifacts, or they and the quantizer, are not of one run.
    """
    latents, ids = inputs.previous_latents, inputs.previous_semantic_ids
    check(
        latents.rows == ids.rows,
        f"encode_items: {ids.rows:,} previous semantic IDs but {latents.rows:,} previous latents. "
        "Give the artifacts of one run.",
    )
    return {name: _previous(name, model, inputs) for name in model.spec.dims}


def _previous(name: str, model: CrossModalQuantizer, inputs: "Inputs") -> Version:
    levels, size = model.spec.levels, model.spec.codebook_size
    dim = model.modality(name).latent_dim
    latents_ND = read_vectors(inputs.previous_latents, f"{name}_latent").matrix_NE
    nearest_NL = codes_matrix(inputs.previous_latents, f"{name}_codes")
    codes_NL = codes_matrix(inputs.previous_semantic_ids, f"{name}_codes")
    highest = max(nearest_NL.max(initial=-1), codes_NL.max(initial=-1))
    check(
        latents_ND.shape[1] == dim
        and (nearest_NL.shape[1], codes_NL.shape[1]) == (levels, levels)
        and highest < size,
        f"encode_items: the previous {name} latents have {latents_ND.shape[1]} components and the "
        f"codes {codes_NL.shape[1]} levels up to {highest}; the quantizer has {dim} components and "
        f"{levels} levels of {size} codewords. Give the quantizer that made them.",
    )
    return Version(latents_ND, nearest_NL, codes_NL)
