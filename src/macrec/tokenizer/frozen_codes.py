"""Encode a catalogue with a frozen quantizer, and read the latents and codes of the last version.

Shape suffixes: N items, B rows of a chunk, E embedding size, D latent size, L levels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import check
from macrec.core.progress import Progress
from macrec.data import schema
from macrec.data.centring import read_mean, read_quantizer_means
from macrec.data.columns import codes_column, codes_matrix, vector_column
from macrec.data.vectors import ItemVectors, Rows, ScratchMatrix, read_vectors
from macrec.tokenizer.item_vectors_from_histories import load_histories
from macrec.tokenizer.measures import has_codes
from macrec.tokenizer.quantizer import MODALITIES, CrossModalQuantizer

CHUNK = 8_192
IN_MEMORY_BYTES = 1 << 30


class Version(NamedTuple):
    """Latents and codes of one modality; items without the modality have rows of -1 as codes."""

    latents_ND: Rows
    nearest_NL: np.ndarray
    """The quantizer's codes of the latents, before collisions are resolved."""
    codes_NL: np.ndarray
    """The semantic IDs; equal to `nearest_NL` until IDs are assigned."""


def allocate_matrix(rows: int, dim: int) -> "np.ndarray | ScratchMatrix":
    """Return a float32 matrix [rows, dim] of zeros; above 1 GiB it is stored on disk."""
    if rows * dim * 4 > IN_MEMORY_BYTES:
        return ScratchMatrix(rows, dim)
    return np.zeros((rows, dim), np.float32)


def encode(
    model: CrossModalQuantizer,
    quantizer: Artifact,
    embeddings: Mapping[str, Artifact],
    item_ids: pa.Array,
) -> dict[str, Version]:
    """Encode a catalogue in every modality of the quantizer.

    Args:
        model: the loaded quantizer.
        quantizer: its artifact, which also contains the means and the histories.
        embeddings: embeddings by modality, from the same encoders as in the quantizer's run.
        item_ids: item ids, in the order of the embeddings.

    Raises:
        UserError: the embeddings do not match the quantizer, or a modality has no embeddings.
    """
    histories = load_histories(quantizer)
    joined, count = histories.dim if histories else 0, len(item_ids)
    vectors = {
        name: _vectors(name, embeddings[name], dim - joined, count)
        for name, dim in model.spec.dims.items()
    }
    means = read_quantizer_means(quantizer)
    shifts = {name: read_mean(embeddings[name]) - means[name] for name in vectors}
    latents = {n: allocate_matrix(count, model.modality(n).latent_dim) for n in vectors}
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


def _vectors(name: str, artifact: Artifact, dim: int, items: int) -> ItemVectors:
    vectors = read_vectors(artifact)
    check(
        len(vectors.present_N) == items,
        f"{items:,} items but {len(vectors.present_N):,} {name} vectors. "
        "Give the artifacts of one run.",
    )
    check(
        bool(vectors.present_N.any()),
        f"no item has {name} vectors, but the quantizer was trained on some. "
        f"Give the {name} encoder or the ready vectors as in the earlier run.",
    )
    found = vectors.matrix_NE.shape[1]
    check(
        found == dim,
        f"{name} vectors have {found} components, those that the quantizer was trained on {dim}. "
        "Use the encoder of that run.",
    )
    return vectors


def read_previous(
    model: CrossModalQuantizer, latents: Artifact, semantic_ids: Artifact
) -> dict[str, Version]:
    """Return the previous version, in every modality of the quantizer.

    Raises:
        UserError: the latents, the semantic IDs and the quantizer are not from the same run.
    """
    check(
        latents.rows == semantic_ids.rows,
        f"{semantic_ids.rows:,} previous semantic IDs but {latents.rows:,} previous latents. "
        "Give the artifacts of one run.",
    )
    return {name: _previous(name, model, latents, semantic_ids) for name in model.spec.dims}


def _previous(
    name: str, model: CrossModalQuantizer, latents: Artifact, semantic_ids: Artifact
) -> Version:
    levels, size = model.spec.levels, model.spec.codebook_size
    dim = model.modality(name).latent_dim
    latents_ND = read_vectors(latents, f"{name}_latent").matrix_NE
    nearest_NL = codes_matrix(latents, f"{name}_codes")
    codes_NL = codes_matrix(semantic_ids, f"{name}_codes")
    highest = max(nearest_NL.max(initial=-1), codes_NL.max(initial=-1))
    check(
        latents_ND.shape[1] == dim
        and (nearest_NL.shape[1], codes_NL.shape[1]) == (levels, levels)
        and highest < size,
        f"the previous {name} latents have {latents_ND.shape[1]} components and the codes "
        f"{codes_NL.shape[1]} levels up to {highest}; the quantizer has {dim} components and "
        f"{levels} levels of {size} codewords. Give the quantizer that made them.",
    )
    return Version(latents_ND, nearest_NL, codes_NL)


def write_latents(output: DatasetOutput, versions: Mapping[str, Version], count: int) -> None:
    """Write latents and nearest codes; they are null for a modality that is not in `versions`."""
    nothing = Version(np.zeros((count, 1), np.float32), *2 * [np.zeros((count, 0), np.int32)])
    every = {name: versions.get(name, nothing) for name in MODALITIES}
    kind = schema.latents(*(every[name].latents_ND.shape[1] for name in MODALITIES))
    with output.dataset(kind) as out:
        for start in range(0, count, CHUNK):
            rows = slice(start, min(start + CHUNK, count))
            columns = {"item_index": pa.array(np.arange(rows.start, rows.stop, dtype=np.int32))}
            for name, version in every.items():
                nearest_NL = version.nearest_NL[rows]
                columns[f"{name}_latent"] = vector_column(
                    version.latents_ND[rows], has_codes(nearest_NL)
                )
                columns[f"{name}_codes"] = codes_column(nearest_NL)
            out.write(pa.table(columns))
