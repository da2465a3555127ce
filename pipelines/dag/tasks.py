"""Code that the pipelines share: it creates tasks and the part of the DAG from data to vectors.

A run parameter is a stage's setting with the stage's prefix; `quantizer_levels` is `levels` of
quantize. So the run form, which is sorted by name, keeps the settings of a stage together.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl, kubernetes

from components.kfp_component import container_component, kfp_default, kfp_type
from components.stages import EMBED_IMAGE, EMBED_TEXT, PREPARE_DATA, SNAPSHOT_CATALOG
from macrec.core.parameters import Parameter
from macrec.core.stage import Pool, Stage
from pipelines.dag.resources import read_resources
from pipelines.dag.run_form import ALL_PREFIXES, SOURCES

HOURS = 3600
TIMEOUT = 24 * HOURS
USER = 1000  # the UID in docker/Dockerfile
HF_SECRET, HF_KEYS = "hf-token", {"HF_TOKEN": "HF_TOKEN"}


class Embedded(NamedTuple):
    """The items, the sequences, and the embeddings by the input names of later stages."""

    items: Any
    sequences: Any
    vectors: dict[str, Any]


class Tasks:
    """Creates the tasks of a pipeline from its run parameters, first the snapshot of the data."""

    def __init__(
        self, run: Mapping[str, Any], embedding_shards: int = 1, resources: Path | None = None
    ) -> None:
        self.run, self._shards = run, embedding_shards
        self._resources = read_resources(resources)
        uris = {name: run[parameter] for name, parameter in SOURCES.items() if parameter in run}
        self._snapshot = self.task(SNAPSHOT_CATALOG, "Snapshot", **uris)
        # This task detects new data, so it must run every time.
        self._snapshot.set_caching_options(False)

    def task(self, stage: Stage, label: str, **inputs: Any) -> dsl.PipelineTask:
        """Create a task on the stage's node pool.

        Its settings are the run parameters with the stage's prefix.
        """
        run, prefix = self.run, ALL_PREFIXES[stage.name]
        component = container_component(stage)
        declared = component.component_spec.inputs
        own = {name: run[prefix + name] for name in declared if prefix + name in run}
        common = {"store": run["store"], "cache_salt": run["cache_salt"]}
        if stage.distributed:
            common["processes"] = run["gpu_count"]
        created = component(**{**own, **common, **inputs}).set_display_name(label)
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
            affinity = run["cpu_node_affinity"]
            kubernetes.add_node_affinity_json(created, node_affinity_json=affinity)
        # Gated weights need a token. The secret is optional, because other weights do not.
        if stage.pool is Pool.GPU and "model" in inputs:
            kubernetes.use_secret_as_env(created, HF_SECRET, HF_KEYS, optional=True)
        return created

    def _place_on_gpus(self, task: dsl.PipelineTask) -> None:
        """Place a task on the GPU pool that the run parameters select."""
        run = self.run
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(run["gpu_count"])
        kubernetes.add_node_selector_json(task, node_selector_json=run["gpu_node_selector"])
        kubernetes.add_toleration_json(task, toleration_json=run["gpu_tolerations"])
        kubernetes.empty_dir_mount(
            task, volume_name="dshm", mount_path="/dev/shm", medium="Memory", size_limit="8Gi"
        )

    def source(self, name: str, as_name: str) -> dict[str, Any]:
        """Return the inputs for external data: its URI, and the digest taken by the snapshot."""
        digest = self._snapshot.outputs[f"{name}_digest"]
        return {as_name: self.run[SOURCES[name]], f"{as_name}_snapshot": digest}

    def embedded(self, **preparation: Any) -> Embedded:
        """Create the tasks that prepare the data and embed the items.

        Args:
            **preparation: settings of prepare_data.
        """
        data = self.task(
            PREPARE_DATA,
            "Prepare data",
            **self.source("items", "catalog"),
            **self.source("interactions", "interactions"),
            **preparation,
        ).outputs
        text = self._embedding(
            EMBED_TEXT,
            "Embed text",
            items=data["items"],
            **self.source("text_model", "model"),
            **self.source("text_embeddings", "embeddings"),
        )
        image = self._embedding(
            EMBED_IMAGE,
            "Embed images",
            items=data["items"],
            **self.source("images", "images"),
            **self.source("image_model", "model"),
            **self.source("image_embeddings", "embeddings"),
        )
        vectors = {
            "text_embeddings": text.outputs["text_embeddings"],
            "image_embeddings": image.outputs["image_embeddings"],
        }
        return Embedded(data["items"], data["sequences"], vectors)

    def _embedding(self, stage: Stage, label: str, **inputs: Any) -> dsl.PipelineTask:
        """Create the task that embeds all items.

        With several shards, it runs after tasks that each embed one part of the items.
        """
        whole = self.task(stage, label, **inputs)
        if self._shards > 1:
            parts = range(1, self._shards + 1)
            numbered = {k: f"{label}, part {k} of {self._shards}" for k in parts}
            shards = [
                self.task(stage, told, shard=f"{k}/{self._shards}", **inputs)
                for k, told in numbered.items()
            ]
            whole.after(*shards)
        return whole


def as_pipeline(
    build: Callable[..., None], name: str, declared: Mapping[str, Parameter], **options: Any
) -> Any:
    """Return the KFP pipeline that `build` defines, with the run parameters as its signature.

    Args:
        build: function that creates the tasks from the run parameters, in their order.
        name: name of the pipeline.
        declared: run parameters by name.
        **options: keyword arguments of `build`.
    """

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
