"""Reads the artifacts of the stage into flat arrays."""

from dataclasses import replace

import numpy as np

from components.train.spec import Settings
from macrec.core.artifact import Artifact
from macrec.core.errors import check
from macrec.core.progress import log
from macrec.data.columns import codes_matrix
from macrec.generator.tokens import MODALITIES, Int32Array, Modality, Vocabulary


def read_codes(semantic_ids: Artifact) -> tuple[tuple[Int32Array, Int32Array], Vocabulary]:
    """Return text codes and image codes [N, L], a row of -1 for no code, and the vocabulary.

    Raises UserError if no item has a code, the modalities differ in levels, or the artifact does
    not state its codebook_size.
    """
    text_NL = codes_matrix(semantic_ids, "text_codes")
    image_NL = codes_matrix(semantic_ids, "image_codes")
    levels = {codes_NL.shape[1] for codes_NL in (text_NL, image_NL)} - {0}
    check(
        len(levels) == 1,
        f"{semantic_ids.path}: text codes of {text_NL.shape[1]} levels and image codes of "
        f"{image_NL.shape[1]}, expected codes of one number of levels.",
    )
    check(
        "codebook_size" in semantic_ids.metadata,
        f"{semantic_ids.path}: its manifest has no codebook_size. Rerun resolve_collisions.",
    )
    codebook_size: int = semantic_ids.metadata["codebook_size"]
    vocabulary = Vocabulary(text_NL.shape[1] or image_NL.shape[1], codebook_size)
    absent_NL = np.full((len(text_NL), levels.pop()), -1, np.int32)
    codes = (
        text_NL if text_NL.shape[1] else absent_NL,
        image_NL if image_NL.shape[1] else absent_NL,
    )
    return codes, vocabulary


def without_absent(config: Settings, modalities: tuple[Modality, ...]) -> Settings:
    """Return the config with only the tasks that these modalities allow; log what is left out.

    Raises UserError if no sequence task is left.
    """
    absent = next((m for m in MODALITIES if m not in modalities), None)
    if absent is None:
        return config
    kept = tuple(task for task in config.tasks if absent not in task.split("_"))
    present = modalities[0]
    check(
        any(task.startswith("seq_") for task in kept),
        f"semantic_ids: no item has {absent} codes, and every sequence task of "
        f"tasks={','.join(config.tasks)} needs them. Add seq_{present}_{present}.",
    )
    dropped = [task for task in config.tasks if task not in kept]
    dropped += ["the implicit alignment"] if config.implicit_weight else []
    if dropped:
        log.info("train: no item has %s codes, which leaves out %s", absent, ", ".join(dropped))
    return replace(config, tasks=kept, implicit_weight=0.0)
