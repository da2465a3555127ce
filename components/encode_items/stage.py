"""Stage encode_items: gives semantic IDs to a changed catalogue with an earlier run's quantizer.

Items of the previous version keep their IDs; new items get the nearest free codes.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from components.encode_items.id_churn import figures
from components.encode_items.spec import Execution, Inputs, Outputs, Settings
from macrec.compute.device import choose_device
from macrec.core.artifact import Artifact
from macrec.core.errors import check
from macrec.core.stage import Job, Metrics
from macrec.data import schema
from macrec.data.columns import codes_column
from macrec.tokenizer import frozen_codes
from macrec.tokenizer.collisions import moved_level
from macrec.tokenizer.frozen_codes import write_latents
from macrec.tokenizer.measures import has_codes
from macrec.tokenizer.quantizer import load_quantizer
from macrec.tokenizer.renewal import VersionUpdate, assign_ids, check_changed, find_previous_rows

MODALITIES = ("text", "image")


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Encode the new catalogue, keep the IDs of unchanged items and give IDs to the others.

    The code of a removed item becomes free for another item. A recommender that is not retrained
    then takes the new item for the old one. An item that has lost its text or image loses the codes
    of that modality; an item that has gained one gets codes there.

    Raises:
        UserError: the artifacts or the encoder do not fit the quantizer, too many old items have
            changed, an item has neither text nor image, an item lacks a modality under "fail", or
            there are more items than codes.
    """
    inputs = job.inputs
    quantizer = Artifact.open(inputs.previous_quantizer.path()).verify()
    latents = Artifact.open(inputs.previous_latents.path())
    semantic_ids = Artifact.open(inputs.previous_semantic_ids.path())
    model = load_quantizer(quantizer.path, choose_device(job.execution.device))
    old = frozen_codes.read_previous(model, latents, semantic_ids)
    ids = inputs.items.table(["item_id"]).column(0).combine_chunks()
    embeddings = {name: getattr(inputs, f"{name}_embeddings") for name in MODALITIES}
    new = frozen_codes.encode(model, quantizer, embeddings, ids)
    present = {name: has_codes(version.nearest_NL) for name, version in new.items()}
    _check_modalities(job.settings, present, ids)
    old_ids = semantic_ids.table(["item_id"]).column(0).combine_chunks()
    row_N = find_previous_rows(ids, old_ids)

    renewed = {
        name: assign_ids(
            old[name],
            new[name],
            row_N,
            ids.to_pylist(),
            np.stack([book.detach().cpu().numpy() for book in model.modality(name).codebooks]),
            tolerance=job.settings.tolerance,
            recode=job.settings.changed == "recode",
        )
        for name in new
    }
    check_changed(renewed, job.settings.max_changed, "Use those, or set max_changed=1.")
    job.outputs.semantic_ids.metadata["codebook_size"] = model.spec.codebook_size
    _write(job.outputs, ids, renewed)
    return figures(row_N, len(old_ids), renewed)


def _check_modalities(config: Settings, present: Mapping[str, np.ndarray], ids: pa.Array) -> None:
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


def _write(outputs: Outputs, ids: pa.Array, renewed: Mapping[str, VersionUpdate]) -> None:
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
