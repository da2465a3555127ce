"""Stage resolve_collisions: makes each modality's codes unique, which gives the semantic IDs."""

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file

from components.resolve_collisions.kept import KeptIds, kept_ids
from components.resolve_collisions.spec import Execution, Inputs, Outputs, Settings
from macrec.core.artifact import Artifact
from macrec.core.errors import check
from macrec.core.progress import log
from macrec.core.stage import Job, Metrics
from macrec.data import schema
from macrec.data.columns import codes_column, codes_matrix, embedding_matrix
from macrec.tokenizer.collisions import Resolution, describe_changes, resolve_collisions
from macrec.tokenizer.measures import collision_rate, group_sizes

MODALITIES = ("text", "image")


CODEBOOKS = "codebooks.safetensors"


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Resolve text and image codes independently and write both, with the levels that changed.

    With a frozen quantizer, items that have the same codes as in the earlier run keep their ID.

    Raises:
        UserError: the inputs do not belong together, an item has no codes at all, or there are more
            items than codes.
    """
    check(
        job.inputs.items.rows == job.inputs.latents.rows,
        f"resolve_collisions: {job.inputs.items.rows:,} items but {job.inputs.latents.rows:,} rows "
        "of latents. Give the artifacts of one run.",
    )
    ids = job.inputs.items.table(["item_id"]).column(0)
    codes = {m: codes_matrix(job.inputs.latents, f"{m}_codes") for m in MODALITIES}
    _check_every_item_has_codes(codes, ids)
    codebooks = _codebooks(job.inputs, codes)
    kept = _kept(job.inputs, codes, ids)

    names = ids.to_pylist()
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "item_index": pa.array(np.arange(len(names), dtype=np.int32)),
        "item_id": ids,
    }
    metrics: Metrics = {}
    for modality in MODALITIES:
        resolved = _resolve(
            modality, codes[modality], codebooks, job.inputs, names, kept.get(modality)
        )
        columns[f"{modality}_codes"] = codes_column(resolved.codes)
        columns[f"{modality}_moved"] = pa.array(resolved.moved_level)
        metrics |= _metrics(modality, codes[modality], resolved)
        if modality in kept:
            metrics[f"{modality}_kept"] = float(kept[modality].kept_N.sum())
    with job.outputs.semantic_ids.dataset(schema.SEMANTIC_IDS) as out:
        out.write(pa.table(columns))
    job.outputs.semantic_ids.metadata["codebook_size"] = max(b.shape[1] for b in codebooks.values())
    return metrics


def _kept(inputs: Inputs, codes: dict[str, np.ndarray], ids: pa.ChunkedArray) -> dict[str, KeptIds]:
    """Return the IDs of the earlier run that stay valid, by modality; {} without such a run."""
    if not inputs.latents.metadata.get("frozen"):
        return {}

    check(
        inputs.previous_semantic_ids is not None and inputs.previous_latents is not None,
        "resolve_collisions: the quantizer is frozen, but previous_semantic_ids and "
        "previous_latents are not given. Give those that quantize was given.",
    )
    assert inputs.previous_semantic_ids is not None and inputs.previous_latents is not None
    semantic_ids = Artifact.open(inputs.previous_semantic_ids.path())
    latents = Artifact.open(inputs.previous_latents.path())
    return kept_ids(codes, ids.combine_chunks(), semantic_ids, latents)


def _check_every_item_has_codes(codes: dict[str, np.ndarray], ids: pa.ChunkedArray) -> None:
    without = np.ones(len(ids), bool)
    for codes_NL in codes.values():
        without &= ~(codes_NL >= 0).any(1)
    first = ", ".join(ids.take(np.flatnonzero(without)[:5]).to_pylist())
    check(
        not without.any(),
        f"resolve_collisions: {int(without.sum()):,} of {len(ids):,} items have neither text nor "
        f"image codes (first: {first}). Give them a text or a picture, or leave them out.",
    )


def _codebooks(inputs: Inputs, codes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the codebooks of each modality that the quantizer has, float32 [L, M, D]."""
    codebooks = load_file(inputs.quantizer.file(CODEBOOKS))
    coded = [modality for modality in MODALITIES if codes[modality].shape[1]]
    check(
        set(coded) <= set(codebooks),
        f"{inputs.quantizer.path}/{CODEBOOKS}: holds {', '.join(codebooks) or 'nothing'}, but "
        f"there are {' and '.join(coded)} codes. Give the quantizer that made the codes.",
    )
    return codebooks


def _resolve(
    modality: str,
    codes_NL: np.ndarray,
    codebooks: dict[str, np.ndarray],
    inputs: Inputs,
    item_ids: list[str],
    kept: KeptIds | None,
) -> Resolution:
    if not codes_NL.shape[1]:  # no item has codes, and the quantizer may lack the modality
        nothing_N = np.zeros(len(codes_NL))
        return Resolution(codes_NL, nothing_N.astype(np.int8) - 1, nothing_N.astype(np.float32))
    latents_ND = embedding_matrix(inputs.latents, f"{modality}_latent")
    dim = codebooks[modality].shape[2]
    check(
        dim == latents_ND.shape[1],
        f"resolve_collisions: {modality} latents have {latents_ND.shape[1]} components, the "
        f"codebooks {dim}. Give the quantizer that made the latents.",
    )
    if kept is None:
        return resolve_collisions(codes_NL, latents_ND, codebooks[modality], item_ids)
    start_NL = np.where(kept.kept_N[:, None], kept.codes_NL, codes_NL)
    resolved = resolve_collisions(start_NL, latents_ND, codebooks[modality], item_ids, kept.kept_N)
    return describe_changes(codes_NL, resolved.codes, codebooks[modality])


def _metrics(modality: str, codes_NL: np.ndarray, resolved: Resolution) -> Metrics:
    moved = resolved.moved_level >= 0
    figures = {
        "items": (codes_NL >= 0).any(1).sum(),
        "collision_rate_before": collision_rate(codes_NL),
        "collision_rate_after": collision_rate(resolved.codes),
        "largest_group": len(group_sizes(codes_NL)) - 1,
        "moved": moved.sum(),
        "moved_above_last_level": (moved & (resolved.moved_level < codes_NL.shape[1] - 1)).sum(),
        "mean_displacement": resolved.displacement[moved].mean() if moved.any() else 0.0,
    }
    log.info(
        "%s: %s of %s items moved, largest group of one code %d",
        modality,
        f"{figures['moved']:,}",
        f"{figures['items']:,}",
        figures["largest_group"],
    )
    return {f"{modality}_{name}": float(value) for name, value in figures.items()}
