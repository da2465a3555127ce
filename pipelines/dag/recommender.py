"""The DAG of the recommender: its tasks and how their inputs and outputs are connected."""

from pathlib import Path
from typing import Any

from components.run_form import RECOMMENDER
from components.stages import (
    EMBED_HISTORIES,
    EVALUATE,
    PSEUDO_LABEL,
    QUANTIZE,
    RECOMMEND,
    RESOLVE_COLLISIONS,
    TRAIN,
)
from pipelines.dag.tasks import Tasks, as_pipeline


def recommender(*values: Any, embedding_shards: int = 1, resources: Path | None = None) -> None:
    """Trains, evaluates and uses a multimodal generative recommender on a catalogue and its log."""
    tasks = Tasks(RECOMMENDER, values, embedding_shards, resources)
    items, sequences, vectors = tasks.embedded()
    labels = tasks.task(PSEUDO_LABEL, "Pseudo-label", **vectors).outputs["pseudo_labels"]
    histories = tasks.task(
        EMBED_HISTORIES, "Embed histories", items=items, sequences=sequences
    ).outputs["history_embeddings"]
    earlier_ids = tasks.earlier("previous_semantic_ids")
    earlier = {**earlier_ids, **tasks.earlier("previous_latents")}
    quantized = tasks.task(
        QUANTIZE,
        "Quantize",
        pseudo_labels=labels,
        history_embeddings=histories,
        **vectors,
        **earlier,
        **tasks.earlier("previous_quantizer"),
    ).outputs
    codes = {"latents": quantized["latents"], "quantizer": quantized["quantizer"]}
    resolved = tasks.task(RESOLVE_COLLISIONS, "Resolve collisions", items=items, **codes, **earlier)
    inputs = {"sequences": sequences, "semantic_ids": resolved.outputs["semantic_ids"]}
    model = tasks.task(TRAIN, "Train generator", **inputs).outputs["recommender"]
    evaluated = tasks.task(
        EVALUATE,
        "Evaluate",
        items=items,
        recommender=model,
        image_embeddings=vectors["image_embeddings"],
        **inputs,
        **codes,
        **earlier_ids,
        **tasks.source("catalog_images", "images"),
    )
    tasks.task(
        RECOMMEND,
        "Recommend",
        recommender=model,
        latents=codes["latents"],
        predictions=evaluated.outputs["predictions"],
        **inputs,
        **tasks.source("lists_users", "users"),
        **tasks.source("lists_allowed_items", "allowed_items"),
    )


def pipeline(**options: Any) -> Any:
    """Return the KFP pipeline, whose signature is the run parameters.

    Args:
        **options: embedding_shards, the number of tasks that share the embedding of a modality, and
            resources, the file of CPU and memory by stage (`pipelines.dag.resources`).
    """
    return as_pipeline(recommender, "macrec", RECOMMENDER, **options)
