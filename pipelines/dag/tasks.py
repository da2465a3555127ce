"""Code that the pipelines share: it creates tasks and the part of the DAG from data to vectors.

The first task, check_run, receives the whole run form. Every other task receives its own settings
from that task, so KFP's cache recomputes only the stages whose settings have changed.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl, kubernetes

from components.kfp_component import container_component, kfp_default, kfp_type
from components.run_form import Form
from components.stages import CHECK_RUN, EMBED_IMAGE, EMBED_TEXT, PREPARE_DATA
from macrec.core.stage import Pool, Stage
from pipelines.dag.resources import read_resources

HOURS = 3600
TIMEOUT = 24 * HOURS
USER = 1000  # the UID in docker/Dockerfile
HF_SECRET, HF_KEYS = "hf-token", {"HF_TOKEN": "HF_TOKEN"}


class EmbeddedItems(NamedTuple):
    """The items, the sequences, and the embeddings by the input names of later stages."""

    items: Any
    sequences: Any
    vectors: dict[str, Any]


class Tasks:
    """Creates the tasks of a pipeline from its run form, first the task that checks the run."""

    def __init__(
        self, form: Form, values: Sequence[Any], embedding_shards: int, resources: Path | None
    ) -> None:
        self.run, self._shards = dict(zip(form.fields, values, strict=True)), embedding_shards
        self._resources = read_resources(resources)
        declared = container_component(CHECK_RUN).component_spec.inputs
        given = {name: value for name, value in self.run.items() if name in declared}
        self._checked = self.task(CHECK_RUN, "Check run", pipeline=form.pipeline, **given)
        # This task detects new data, so it must run every time.
        self._checked.set_caching_options(False)

    def task(self, stage: Stage, label: str, **inputs: Any) -> dsl.PipelineTask:
        """Create a task on the stage's node pool."""
        run = self.run
        common: dict[str, Any] = {}
        if not stage.separate_settings:
            common["settings"] = self._checked.outputs[f"{stage.name}_settings"]
        if stage.reusable:
            common |= {"store": run["run_store"], "cache_salt": run["run_cache_salt"]}
        if stage.distributed:
            common["processes"] = run["cluster_gpu_count"]
        created = container_component(stage)(**common, **inputs).set_display_name(label)
        kubernetes.set_timeout(created, TIMEOUT)
        # Images are named by digest, so an image that a node already has is the right one.
        kubernetes.set_image_pull_policy(created, "IfNotPresent")
        kubernetes.set_security_context(
            created, run_as_user=USER, run_as_group=USER, run_as_non_root=True
        )
        self._resources[stage.name].apply(created)
        created.set_retry(
            3, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration="900s"
        )
        if stage.pool is Pool.GPU:
            self._place_on_gpus(created)
        else:
            # A taint on the GPU pool would be enough, but not every pool has one.
            affinity = run["cluster_cpu_affinity"]
            kubernetes.add_node_affinity_json(created, node_affinity_json=affinity)
        # Gated weights need a token. The secret is optional, because other weights do not.
        if stage.pool is Pool.GPU and "model" in inputs:
            kubernetes.use_secret_as_env(created, HF_SECRET, HF_KEYS, optional=True)
        return created

    def _place_on_gpus(self, task: dsl.PipelineTask) -> None:
        """Place a task on the GPU pool that the run parameters select."""
        run = self.run
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(run["cluster_gpu_count"])
        kubernetes.add_node_selector_json(task, node_selector_json=run["cluster_gpu_node_selector"])
        kubernetes.add_toleration_json(task, toleration_json=run["cluster_gpu_tolerations"])
        kubernetes.empty_dir_mount(
            task, volume_name="dshm", mount_path="/dev/shm", medium="Memory", size_limit="8Gi"
        )

    def source(self, name: str, as_name: str) -> dict[str, Any]:
        """Return the inputs for external data: its address, and its digest from the first task."""
        digest = self._checked.outputs[f"{name}_digest"]
        return {as_name: self.run[name], f"{as_name}_snapshot": digest}

    def earlier(self, name: str) -> dict[str, Any]:
        """Return the inputs for an artifact of the earlier run, which the first task has found."""
        outputs = self._checked.outputs
        return {name: outputs[name], f"{name}_snapshot": outputs[f"{name}_digest"]}

    def embedded(self) -> EmbeddedItems:
        """Create the tasks that prepare the data and embed the items."""
        data = self.task(
            PREPARE_DATA,
            "Prepare data",
            **self.source("catalog_items", "catalog"),
            **self.source("catalog_interactions", "interactions"),
        ).outputs
        text = self._embedding_task(
            EMBED_TEXT,
            "Embed text",
            items=data["items"],
            **self.source("encoder_text", "model"),
            **self.source("vectors_text", "embeddings"),
        )
        image = self._embedding_task(
            EMBED_IMAGE,
            "Embed images",
            items=data["items"],
            **self.source("catalog_images", "images"),
            **self.source("encoder_image", "model"),
            **self.source("vectors_image", "embeddings"),
        )
        vectors = {
            "text_embeddings": text.outputs["text_embeddings"],
            "image_embeddings": image.outputs["image_embeddings"],
        }
        return EmbeddedItems(data["items"], data["sequences"], vectors)

    def _embedding_task(self, stage: Stage, label: str, **inputs: Any) -> dsl.PipelineTask:
        """Create the task that embeds all items.

        With several shards, it runs after tasks that each embed one part of the items.
        """
        whole = self.task(stage, label, **inputs)
        if self._shards > 1:
            parts = range(1, self._shards + 1)
            numbered = {k: f"{label}, part {k} of {self._shards}" for k in parts}
            shards = [
                self.task(stage, numbered_task, shard=f"{k}/{self._shards}", **inputs)
                for k, numbered_task in numbered.items()
            ]
            whole.after(*shards)
        return whole


def as_pipeline(build: Callable[..., None], name: str, form: Form, **options: Any) -> Any:
    """Return the KFP pipeline that `build` defines, with the run form as its signature.

    Args:
        build: function that creates the tasks from the values of the form, in their order.
        name: name of the pipeline.
        form: the run form.
        **options: keyword arguments of `build`.
    """
    declared = form.fields

    def function(*values: Any) -> None:
        build(*values, **options)

    function.__name__ = build.__name__
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
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
    summary = (inspect.getdoc(build) or "").partition("\n")[0]
    function.__doc__ = "\n".join([summary, "", "Args:", *lines])
    function.__annotations__ = {n: kfp_type(p) for n, p in declared.items()}
    return dsl.pipeline(name=name)(function)
