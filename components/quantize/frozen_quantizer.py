"""Implements quantize.mode=frozen: the quantizer of an earlier run encodes the catalogue.

N items, L levels
"""

import shutil

import numpy as np
import torch

from components.quantize.spec import Inputs, Outputs
from macrec.core.artifact import MANIFEST, Artifact, FolderOutput, Source
from macrec.core.errors import check
from macrec.core.progress import log
from macrec.core.stage import Metrics
from macrec.tokenizer import frozen_codes
from macrec.tokenizer.measures import has_codes, measure_tokenizer
from macrec.tokenizer.quantizer import load_quantizer
from macrec.tokenizer.renewal import (
    MAX_CHANGED,
    TOLERANCE,
    check_changed,
    decide_ids,
    find_previous_rows,
)

FROZEN = "frozen"
"""Metadata key of the latents: the IDs of the previous version remain valid."""
REMEDY = "Use those, or set quantize.mode=retrain."


def run(inputs: Inputs, outputs: Outputs, device: torch.device) -> Metrics:
    """Copy the earlier quantizer and write latents and codes of the new catalogue.

    An unchanged old item keeps the latent and the codes that its ID is based on. From these,
    `resolve_collisions` determines which IDs are kept.

    Raises:
        UserError: an earlier artifact is absent or from another run, the vectors are not from its
            encoder, or too many old items have changed.
    """
    quantizer = earlier(inputs, "previous_quantizer")
    latents = earlier(inputs, "previous_latents")
    semantic_ids = earlier(inputs, "previous_semantic_ids")
    model = load_quantizer(quantizer.verify().path, device)
    old = frozen_codes.read_previous(model, latents, semantic_ids)
    item_ids, old_ids = (
        artifact.table(["item_id"]).column(0).combine_chunks()
        for artifact in (inputs.history_embeddings, semantic_ids)
    )
    embeddings = {name: getattr(inputs, f"{name}_embeddings") for name in old}
    new = frozen_codes.encode(model, quantizer, embeddings, item_ids)
    row_N = find_previous_rows(item_ids, old_ids)
    settled = {name: decide_ids(old[name], new[name], row_N, tolerance=TOLERANCE) for name in new}
    check_changed(settled, MAX_CHANGED, REMEDY)
    versions = {
        name: frozen_codes.Version(after.latents_ND, after.nearest_NL, after.nearest_NL)
        for name, after in settled.items()
    }
    outputs.latents.metadata[FROZEN] = True
    frozen_codes.write_latents(outputs.latents, versions, len(item_ids))
    _copy(quantizer, outputs.quantizer)
    log.info(
        "quantize: frozen, %s of %s items are new", f"{np.sum(row_N < 0):,}", f"{len(row_N):,}"
    )
    size = model.spec.codebook_size
    figures = {"codebook_size": float(size), "levels": float(model.spec.levels)}
    for name, after in settled.items():
        figures[f"{name}_items"] = float(has_codes(after.nearest_NL).sum())
        figures[f"{name}_changed"] = float(after.changed_N.sum())
    return figures | measure_tokenizer({n: v.nearest_NL for n, v in versions.items()}, size)


def earlier(inputs: Inputs, name: str) -> Artifact:
    """Return an artifact of the earlier run."""
    source: Source | None = getattr(inputs, name)
    check(
        source is not None,
        f"quantize.mode=frozen needs {name}, the folder of the earlier run's artifact. "
        "`macrec run` finds it by --previous.",
    )
    assert source is not None
    return Artifact.open(source.path())


def _copy(quantizer: Artifact, output: FolderOutput) -> None:
    """Copy the same files, so that the artifact has the same digest."""
    output.metadata |= quantizer.metadata
    for entry in quantizer.manifest["files"]:
        target = output.path / entry["name"]
        assert entry["name"] != MANIFEST
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(quantizer.file(entry["name"]), target)
