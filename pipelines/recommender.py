"""The DAG: what is wired to what, and on which node pool.

Run parameters are the stages' own settings with the stage's prefix (`quantizer_levels` is `levels`
of quantize), so a form sorted by name keeps a stage's settings together.
"""

import inspect
from typing import Any

from kfp import dsl, kubernetes

from components.container import kfp_default, kfp_type
from components.embed_image.component import embed_image
from components.embed_text.component import embed_text
from components.evaluate.component import evaluate
from components.prepare_data.component import prepare_data
from components.pseudo_label.component import pseudo_label
from components.quantize.component import quantize
from components.resolve_collisions.component import resolve_collisions
from components.snapshot_catalog.component import snapshot_catalog
from components.train.component import train
from pipelines.parameters import PREFIXES, SOURCES, run_parameters

HOURS = 3600


def recommender(*values: Any) -> None:
    """Trains and evaluates a multimodal generative recommender on a catalogue and its log."""
    run = dict(zip(run_parameters(), values, strict=True))

    def task(component: Any, label: str, **inputs: Any) -> dsl.PipelineTask:
        """A task whose settings are the run parameters with its stage's prefix."""
        prefix = PREFIXES[component.name.replace("-", "_")]
        own = {n: run[prefix + n] for n in component.component_spec.inputs if prefix + n in run}
        common = {"store": run["store"], "cache_salt": run["cache_salt"]}
        created = component(**{**own, **common, **inputs}).set_display_name(label)
        kubernetes.set_timeout(created, 24 * HOURS)
        created.set_retry(
            3, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration="900s"
        )
        return created

    def on_gpu(created: dsl.PipelineTask) -> dsl.PipelineTask:
        created.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(run["gpu_count"])
        kubernetes.add_node_selector_json(created, node_selector_json=run["gpu_node_selector"])
        kubernetes.add_toleration_json(created, toleration_json=run["gpu_tolerations"])
        kubernetes.empty_dir_mount(
            created, volume_name="dshm", mount_path="/dev/shm", medium="Memory", size_limit="8Gi"
        )
        return created

    snapshot = task(snapshot_catalog, "Snapshot", **{n: run[p] for n, p in SOURCES.items()})
    snapshot.set_caching_options(False)  # it is what notices new data

    def source(name: str, as_name: str) -> dict[str, Any]:
        """A URI and the digest of what is there now."""
        digest = snapshot.outputs[f"{name}_digest"]
        return {as_name: run[SOURCES[name]], f"{as_name}_snapshot": digest}

    data = task(
        prepare_data,
        "Prepare data",
        **source("items", "catalog"),
        **source("interactions", "interactions"),
    )
    items, sequences = data.outputs["items"], data.outputs["sequences"]
    text = on_gpu(
        task(
            embed_text,
            "Embed text",
            items=items,
            **source("text_model", "model"),
            **source("text_embeddings", "embeddings"),
        )
    ).outputs["text_embeddings"]
    image = on_gpu(
        task(
            embed_image,
            "Embed images",
            items=items,
            **source("images", "images"),
            **source("image_model", "model"),
            **source("image_embeddings", "embeddings"),
        )
    ).outputs["image_embeddings"]
    vectors = {"text_embeddings": text, "image_embeddings": image}
    labels = task(pseudo_label, "Pseudo-label", **vectors).outputs["pseudo_labels"]
    quantized = on_gpu(task(quantize, "Quantize", pseudo_labels=labels, **vectors)).outputs
    codes = {"latents": quantized["latents"], "quantizer": quantized["quantizer"]}
    resolved = task(resolve_collisions, "Resolve collisions", items=items, **codes)
    inputs = {"sequences": sequences, "semantic_ids": resolved.outputs["semantic_ids"]}
    model = on_gpu(task(train, "Train generator", **inputs)).outputs["recommender"]
    on_gpu(
        task(
            evaluate,
            "Evaluate",
            items=items,
            recommender=model,
            **inputs,
            **codes,
            **source("images", "images"),
        )
    )


def pipeline() -> Any:
    """The pipeline, with the run parameters as its signature."""
    declared = run_parameters()
    recommender.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                annotation=kfp_type(p),
                default=kfp_default(p),
            )
            for name, p in declared.items()
        ]
    )
    lines = [f"    {name}: {' '.join(p.doc.split())}" for name, p in declared.items()]
    summary = inspect.getdoc(recommender)
    recommender.__doc__ = "\n".join([str(summary), "", "Args:", *lines])
    recommender.__annotations__ = {n: kfp_type(p) for n, p in declared.items()}
    return dsl.pipeline(name="macrec")(recommender)
