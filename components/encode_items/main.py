"""encode_items: semantic IDs of a changed catalogue, with the quantizer of an earlier run as it is.

Items that were there before keep their IDs; new ones get the nearest free codes.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from macrec.core import stage
from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import check
from macrec.data import schema
from macrec.data.columns import codes_column

if TYPE_CHECKING:
    from macrec.tokenizer.renewal import Renewed

MODALITIES = ("text", "image")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What becomes of items that have changed or that lack a modality."""

    changed: Literal["recode", "keep"] = "recode"
    """An old item whose content now calls for other codes: "recode" gives it a new ID, since one
    that tells of something else misleads in every history that holds it. "keep" leaves its ID, for
    a recommender that is not trained again."""
    tolerance: float = 0.05
    """How far a latent may move, as a share of the spread of the previous latents, without
    counting as changed: vectors computed anew on another device differ a little."""
    max_changed: float = 0.5
    """Highest share of changed ones among the old items of a modality. Above it not the items have
    changed but the encoder or its settings, and the run fails; 1 = off."""
    missing_modality: Literal["keep", "fail"] = "keep"
    """An item without text or without picture: "keep" gives it codes in the other modality alone,
    "fail" ends the run. An item with neither always does."""

    def __post_init__(self) -> None:
        bad = [] if self.tolerance >= 0 else ["tolerance is negative"]
        bad += [] if 0 <= self.max_changed <= 1 else ["max_changed is outside 0..1"]
        check(not bad, f"encode_items: {'; '.join(bad)}.")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What only the speed depends on."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The new catalogue, and the version before: of quantize and resolve_collisions, or of this
    stage."""

    items: Artifact
    """The new catalogue; items are those of the version before by their ids."""
    text_embeddings: Artifact
    """Text vectors of the new catalogue, from the encoder of the earlier run."""
    image_embeddings: Artifact
    """Image vectors of the new catalogue, from the encoder of the earlier run."""
    previous_semantic_ids: Artifact
    """The IDs of the version before."""
    previous_latents: Artifact
    """Latents and nearest codes of the version before."""
    quantizer: Artifact
    """The quantizer that made them."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The next version."""

    semantic_ids: DatasetOutput
    """One row per item of the new catalogue: its unique text codes and image codes."""
    latents: DatasetOutput
    """The latents on which the IDs rest, and their nearest codes, collisions included."""


def run(config: Config, inputs: Inputs, outputs: Outputs, execution: Execution) -> stage.Metrics:
    """Encodes the new catalogue, keeps the IDs of unchanged items and gives IDs to the others.

    An item that is gone leaves its code free for another: a recommender that is not trained again
    takes the new holder for the old one. An item that has lost its text or picture loses the codes
    of that modality; one that has gained it gets codes there.

    Raises:
        UserError: the artifacts or the encoder do not fit the quantizer, too many old items have
            changed, an item has neither text nor picture, one lacks a modality under "fail", or
            there are more items than codes.
    """
    from components.encode_items.id_churn import figures
    from macrec.compute.device import choose_device
    from macrec.tokenizer import frozen_codes
    from macrec.tokenizer.measures import has_codes
    from macrec.tokenizer.quantizer import load_quantizer
    from macrec.tokenizer.renewal import check_changed, renew, rows_before

    model = load_quantizer(inputs.quantizer.verify().path, choose_device(execution.device))
    old = frozen_codes.previous(model, inputs.previous_latents, inputs.previous_semantic_ids)
    ids = inputs.items.table(["item_id"]).column(0).combine_chunks()
    embeddings = {name: getattr(inputs, f"{name}_embeddings") for name in MODALITIES}
    new = frozen_codes.encode(model, inputs.quantizer, embeddings, ids)
    present = {name: has_codes(version.nearest_NL) for name, version in new.items()}
    _check_modalities(config, present, ids)
    old_ids = inputs.previous_semantic_ids.table(["item_id"]).column(0).combine_chunks()
    row_N = rows_before(ids, old_ids)

    renewed = {
        name: renew(
            old[name],
            new[name],
            row_N,
            ids.to_pylist(),
            np.stack([book.detach().cpu().numpy() for book in model.modality(name).codebooks]),
            tolerance=config.tolerance,
            recode=config.changed == "recode",
        )
        for name in new
    }
    check_changed(renewed, config.max_changed, "Use those, or set max_changed=1.")
    outputs.semantic_ids.metadata["codebook_size"] = model.spec.codebook_size
    _write(outputs, ids, renewed)
    return figures(row_N, len(old_ids), renewed)


def _check_modalities(config: Config, present: Mapping[str, np.ndarray], ids: pa.Array) -> None:
    missing = {name: ~present_N for name, present_N in present.items()}
    neither_N = np.logical_and.reduce(list(missing.values()))
    check(
        not neither_N.any(),
        f"encode_items: {int(neither_N.sum()):,} of {len(ids):,} items have no "
        f"{' and no '.join(missing)} vector (first: {_first(ids, neither_N)}). Give them a text or "
        "a picture, or leave them out.",
    )
    for name, missing_N in missing.items():
        check(
            config.missing_modality == "keep" or not missing_N.any(),
            f"encode_items: {int(missing_N.sum()):,} of {len(ids):,} items have no {name} vector "
            f"(first: {_first(ids, missing_N)}). Complete them, or set missing_modality=keep.",
        )


def _first(ids: pa.Array, chosen_N: np.ndarray) -> str:
    return ", ".join(ids.take(pa.array(np.flatnonzero(chosen_N)[:5])).to_pylist())


def _write(outputs: Outputs, ids: pa.Array, renewed: Mapping[str, "Renewed"]) -> None:
    from macrec.tokenizer.collisions import moved_level
    from macrec.tokenizer.frozen_codes import write_latents

    count = len(ids)
    nothing_NL = np.zeros((count, 0), np.int32)
    columns: dict[str, pa.Array] = {
        "item_index": pa.array(np.arange(count, dtype=np.int32)),
        "item_id": ids,
    }
    for name in MODALITIES:
        version = renewed[name].version if name in renewed else None
        codes_NL = version.codes_NL if version else nothing_NL
        nearest_NL = version.nearest_NL if version else nothing_NL
        columns[f"{name}_codes"] = codes_column(codes_NL)
        columns[f"{name}_moved"] = pa.array(moved_level(nearest_NL, codes_NL))
    with outputs.semantic_ids.dataset(schema.SEMANTIC_IDS) as out:
        out.write(pa.table(columns))
    write_latents(outputs.latents, {n: after.version for n, after in renewed.items()}, count)


if __name__ == "__main__":
    stage.main(sys.modules[__name__])
