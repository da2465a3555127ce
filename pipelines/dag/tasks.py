"""What the pipelines have in common: how a task is made, and the way from the data to the vectors.

Run parameters are the stages' own settings with the stage's prefix (`quantizer_levels` is `levels`
of quantize), so a form sorted by name keeps a stage's settings together.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kfp import dsl, kubernetes

from components.kfp_component import container_component, kfp_default, kfp_type
from components.stages import EMBED_IMAGE, EMBED_TEXT, PREPARE_DATA, SNAPSHOT_CATALOG
from macrec.core.parameters import Parameter
from macrec.core.stage import Pool, Stage
from pipelines.dag.run_form import ALL_PREFIXES, SOURCES

HOURS = 3600
TIMEOUT = 24 * HOURS
USER = 1000  # of docker/Dockerfile
HF_SECRET, HF_KEYS = "hf-token", {"HF_TOKEN": "HF_TOKEN"}


class Embedded(NamedTuple):
    """The catalogue, its log, and the vectors of its items under the names of the inputs."""

    items: Any
    sequences: Any
    vectors: dict[str, Any]


class Tasks:
    """Makes the tasks of a pipeline from its run parameters; the snapshot comes first."""

    def __init__(self, run: Mapping[str, Any], embedding_shards: int = 1) -> None:
        self.run, self._shards = run, embedding_shards
        uris = {name: run[parameter] for name, parameter in SOURCES.items() if parameter in run}
        self._snapshot = self.task(SNAPSHOT_CATALOG, "Snapshot", **uris)
        self._snapshot.set_caching_options(False)  # it is what notices new data

    def task(self, stage: Stage, label: str, **inputs: Any) -> dsl.PipelineTask:
        """Make a task on the stage's pool; its settings are the run parameters with its prefix."""
        run, prefix = self.run, ALL_PREFIXES[stage.name]
        component = container_component(stage)
        declared = component.component_spec.inputs
        own = {name: run[prefix + name] for name in declared if prefix + name in run}
        common = {"store": run["store"], "cache_salt": run["cache_salt"]}
        if stage.distributed:
            common["processes"] = run["gpu_count"]
        created = component(**{**own, **common, **inputs}).set_display_name(label)
        kubernetes.set_timeout(created, TIMEOUT)
        # An image is named by its digest: what a node has of that name is that image.
        kubernetes.set_image_pull_policy(created, "IfNotPresent")
        kubernetes.set_security_context(
            created, run_as_user=USER, run_as_group=USER, run_as_non_root=True
        )
        created.set_retry(
            3, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration="900s"
        )
        if stage.pool is Pool.GPU:
            self._place_on_gpus(created)
        else:
            # A taint on the pool would do; not every pool has one.
            affinity = run["cpu_node_affinity"]
            kubernetes.add_node_affinity_json(created, node_affinity_json=affinity)
        if stage.pool is Pool.GPU and "model" in inputs:  # gated weights; the secret need not exist
            kubernetes.use_secret_as_env(created, HF_SECRET, HF_KEYS, optional=True)
        return created

    def _place_on_gpus(self, task: dsl.PipelineTask) -> None:
        """Put a task on the GPU pool that the run names."""
        run = self.run
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(run["gpu_count"])
        kubernetes.add_node_selector_json(task, node_selector_json=run["gpu_node_selector"])
        kubernetes.add_toleration_json(task, toleration_json=run["gpu_tolerations"])
        kubernetes.empty_dir_mount(
            task, volume_name="dshm", mount_path="/dev/shm", medium="Memory", size_limit="8Gi"
        )

    def source(self, name: str, as_name: str) -> dict[str, Any]:
        """A URI and the digest of what is there now."""
        digest = self._snapshot.outputs[f"{name}_digest"]
        return {as_name: self.run[SOURCES[name]], f"{as_name}_snapshot": digest}

    def embedded(self, **preparation: Any) -> Embedded:
        """Prepares the data and embeds the items; `preparation` are settings of prepare_data."""
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
        """A task that embeds all items, after those that embed a part each, if there are such."""
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
    """The pipeline that `build` makes of the run parameters, which are its signature."""

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
