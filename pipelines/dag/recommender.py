"""The DAG of the recommender: what is wired to what, and on which node pool."""

from typing import Any

from components.embed_histories.component import embed_histories
from components.evaluate.component import evaluate
from components.pseudo_label.component import pseudo_label
from components.quantize.component import quantize
from components.recommend.component import recommend
from components.resolve_collisions.component import resolve_collisions
from components.train.component import train
from pipelines.dag.run_form import run_parameters
from pipelines.dag.tasks import Tasks, as_pipeline


def recommender(*values: Any, embedding_shards: int = 1) -> None:
    """Trains, evaluates and uses a multimodal generative recommender on a catalogue and its log."""
    tasks = Tasks(dict(zip(run_parameters(), values, strict=True)), embedding_shards)
    items, sequences, vectors = tasks.embedded()
    labels = tasks.task(pseudo_label, "Pseudo-label", **vectors).outputs["pseudo_labels"]
    histories = tasks.task(
        embed_histories, "Embed histories", items=items, sequences=sequences
    ).outputs["history_embeddings"]
    ids_before = tasks.source("previous_semantic_ids", "previous_semantic_ids")
    before = {**ids_before, **tasks.source("previous_latents", "previous_latents")}
    quantized = tasks.gpu_task(
        quantize,
        "Quantize",
        pseudo_labels=labels,
        history_embeddings=histories,
        **vectors,
        **before,
        **tasks.source("previous_quantizer", "previous_quantizer"),
    ).outputs
    codes = {"latents": quantized["latents"], "quantizer": quantized["quantizer"]}
    resolved = tasks.task(resolve_collisions, "Resolve collisions", items=items, **codes, **before)
    inputs = {"sequences": sequences, "semantic_ids": resolved.outputs["semantic_ids"]}
    model = tasks.gpu_task(train, "Train generator", **inputs).outputs["recommender"]
    evaluated = tasks.gpu_task(
        evaluate,
        "Evaluate",
        items=items,
        recommender=model,
        **inputs,
        **codes,
        **ids_before,
        **tasks.source("images", "images"),
    )
    tasks.gpu_task(
        recommend,
        "Recommend",
        recommender=model,
        latents=codes["latents"],
        predictions=evaluated.outputs["predictions"],
        **inputs,
        **tasks.source("users", "users"),
        **tasks.source("allowed_items", "allowed_items"),
    )


def pipeline(**options: int) -> Any:
    """The pipeline, with the run parameters as its signature; embedding_shards is an option."""
    return as_pipeline(recommender, "macrec", run_parameters(), **options)
