"""encode_items: semantic IDs of a changed catalogue, with the quantizer of an earlier run as it is.

Items that were there before keep their IDs; new ones get the nearest free codes.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute

from macrec import schema, stage
from macrec.arrays import codes_column, vector_column
from macrec.artifact import Artifact, DatasetOutput
from macrec.errors import check

if TYPE_CHECKING:
    from components.encode_items.renewal import Renewed

MODALITIES = ("text", "image")
pc: Any = pyarrow.compute  # its functions are made at import, which a type checker cannot see


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
    from components.encode_items import encoding
    from components.encode_items.churn import figures
    from components.encode_items.renewal import renew
    from macrec.code_measures import has_codes
    from macrec.quantizer import load_quantizer
    from macrec.runtime import choose_device

    model = load_quantizer(inputs.quantizer.verify().path, choose_device(execution.device))
    old = encoding.previous(model, inputs)
    new = encoding.encode(model, inputs)
    ids = inputs.items.table(["item_id"]).column(0).combine_chunks()
    present = {name: has_codes(version.nearest_NL) for name, version in new.items()}
    _check_modalities(config, present, ids)
    old_ids = inputs.previous_semantic_ids.table(["item_id"]).column(0).combine_chunks()
    row_N = np.asarray(pc.index_in(ids, value_set=old_ids).fill_null(-1))

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
    _check_changed(config, renewed)
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


def _check_changed(config: Config, renewed: Mapping[str, "Renewed"]) -> None:
    for name, after in renewed.items():
        changed, both = int(after.changed_N.sum()), int(after.both_N.sum())
        check(
            changed <= config.max_changed * both,
            f"encode_items: {changed:,} of {both:,} old items call for other {name} codes, more "
            f"than {config.max_changed:.0%} of them: the encoder or its settings are not those of "
            "the earlier run. Use those, or set max_changed=1.",
        )


def _first(ids: pa.Array, chosen_N: np.ndarray) -> str:
    return ", ".join(ids.take(pa.array(np.flatnonzero(chosen_N)[:5])).to_pylist())


def _write(outputs: Outputs, ids: pa.Array, renewed: Mapping[str, "Renewed"]) -> None:
    from components.encode_items.encoding import CHUNK, Version
    from macrec.code_measures import has_codes
    from macrec.semantic_ids import moved_level

    count = len(ids)
    nothing = Version(np.zeros((count, 1), np.float32), *2 * [np.zeros((count, 0), np.int32)])
    versions = {n: renewed[n].version if n in renewed else nothing for n in MODALITIES}
    index = pa.array(np.arange(count, dtype=np.int32))
    columns: dict[str, pa.Array] = {"item_index": index, "item_id": ids}
    for name, version in versions.items():
        columns[f"{name}_codes"] = codes_column(version.codes_NL)
        columns[f"{name}_moved"] = pa.array(moved_level(version.nearest_NL, version.codes_NL))
    with outputs.semantic_ids.dataset(schema.SEMANTIC_IDS) as out:
        out.write(pa.table(columns))
    kind = schema.latents(*(versions[name].latents_ND.shape[1] for name in MODALITIES))
    with outputs.latents.dataset(kind) as out:
        for start in range(0, count, CHUNK):
            rows = slice(start, min(start + CHUNK, count))
            columns = {"item_index": index[rows]}
            for name, version in versions.items():
                nearest_NL = version.nearest_NL[rows]
                latents_ND = version.latents_ND[rows]
                columns[f"{name}_latent"] = vector_column(latents_ND, has_codes(nearest_NL))
                columns[f"{name}_codes"] = codes_column(nearest_NL)
            out.write(pa.table(columns))


if __name__ == "__main__":
    stage.main(sys.modules[__name__])
