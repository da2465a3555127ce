"""The run parameters: the settings of every stage with the stage's prefix, sources, and cluster.

This module is cheap to import. The command line uses it to check a configuration before it loads
KFP.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from components.stages import ENCODE_ITEMS, SNAPSHOT_CATALOG, stage_named
from macrec.core.errors import UserError
from macrec.core.parameters import Parameter, build, fields, parse
from macrec.core.stage_command import COMMON, FORCE, GpuCount

# Stage -> prefix of its settings among the run parameters, in DAG order.
PREFIXES = {
    "snapshot_catalog": "snapshot_",
    "prepare_data": "catalog_",
    "embed_text": "text_",
    "embed_image": "image_",
    "embed_histories": "history_",
    "pseudo_label": "label_",
    "quantize": "quantizer_",
    "resolve_collisions": "resolver_",
    "train": "generator_",
    "evaluate": "evaluation_",
    "recommend": "recommend_",
}
# All stages; PREFIXES has those of the recommender. No pipeline contains `baselines` (`macrec
# bench` runs it), so its settings are not run parameters.
ALL_PREFIXES = PREFIXES | {"encode_items": "encode_", "baselines": "baselines_"}
_ENCODING = ("snapshot_catalog", "prepare_data", "embed_text", "embed_image", "encode_items")
# Input of snapshot_catalog (external data) -> run parameter.
SOURCES = {
    "items": "catalog_items",
    "interactions": "catalog_interactions",
    "images": "catalog_images",
    "text_model": "text_model",
    "image_model": "image_model",
    "text_embeddings": "text_embeddings",
    "image_embeddings": "image_embeddings",
    "users": "recommend_users",
    "allowed_items": "recommend_allowed_items",
    "previous_semantic_ids": "previous_semantic_ids",
    "previous_latents": "previous_latents",
    "previous_quantizer": "previous_quantizer",
}
# Only the recommender has these; the encoding pipeline imports an earlier run's artifacts.
_RECOMMENDER = (
    *("users", "allowed_items"),
    *("previous_semantic_ids", "previous_latents", "previous_quantizer"),
)
# Settings that are not run parameters, because the pipeline sets them for each task.
SET_BY_PIPELINE = ("shard",)
REQUIRED = dataclasses.MISSING
# Labels of GPU nodes: the first is set by GKE, the second by NVIDIA's GPU operator on any cluster.
_GPU_LABELS = ("cloud.google.com/gke-accelerator", "nvidia.com/gpu.present")
_NO_GPU = [{"key": label, "operator": "DoesNotExist"} for label in _GPU_LABELS]
_OFF_GPUS: dict[str, Any] = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": _NO_GPU}]
    }
}
CLUSTER = [
    Parameter(
        "cpu_node_affinity",
        dict,
        _OFF_GPUS,
        "Node affinity of the tasks that need no GPU, as JSON; {} lets them run on any node.",
    ),
    Parameter(
        "gpu_count",
        GpuCount,
        "1",
        "GPUs of each task on the GPU pool; quantize and train share their work among them, the "
        "others use one. 0: these tasks run without.",
    ),
    Parameter("gpu_node_selector", dict, {}, "Node labels of the GPU pool, as JSON."),
    Parameter("gpu_tolerations", list, [], "Tolerations of the GPU pool's taints, as JSON."),
]
# Input of encode_items from an earlier run -> run parameter of the encoding pipeline.
PREVIOUS = {
    "previous_semantic_ids": "previous_semantic_ids",
    "previous_latents": "previous_latents",
    "quantizer": "previous_quantizer",
}


@lru_cache(maxsize=1)
def run_parameters() -> dict[str, Parameter]:
    """Return every run parameter of the recommender by name."""
    return _declared(PREFIXES)


@lru_cache(maxsize=1)
def encode_parameters() -> dict[str, Parameter]:
    """Return every run parameter of the encoding pipeline by name."""
    declared = _declared({name: ALL_PREFIXES[name] for name in _ENCODING})
    # The k-core filter would drop every new item, because it has no interactions yet.
    del declared["catalog_min_interactions"]
    docs = {p.name: p.doc for p in fields(ENCODE_ITEMS.inputs)}
    given = {n: Parameter(n, str, REQUIRED, f"Folder: {docs[i]}") for i, n in PREVIOUS.items()}
    return given | declared


def _declared(prefixes: Mapping[str, str]) -> dict[str, Parameter]:
    docs = {p.name: p.doc for p in fields(SNAPSHOT_CATALOG.inputs)}
    result: dict[str, Parameter] = {}
    for source, name in SOURCES.items():
        if source in _RECOMMENDER and "recommend" not in prefixes:
            continue
        default = REQUIRED if source in ("items", "interactions") else ""
        result[name] = Parameter(name, str, default, docs[source])
    for stage_name, prefix in prefixes.items():
        stage = stage_named(stage_name)
        own = [FORCE] if stage.reusable else []
        for setting in [*stage.parameters, *own]:
            if setting.name in SET_BY_PIPELINE:
                continue
            name = prefix + setting.name
            assert name not in result, f"two run parameters are called {name}"
            result[name] = setting._replace(name=name)
    return result | {p.name: p for p in [*CLUSTER, *COMMON]}


def resolve(
    values: Mapping[str, Any],
    origins: Mapping[str, str] | None = None,
    declared: Mapping[str, Parameter] | None = None,
) -> dict[str, Any]:
    """Return the typed run parameters for the values that the user gave.

    Args:
        values: values by name, of any type that can be converted to the parameter's type.
        origins: name of the file that each value came from, for the message.
        declared: the allowed parameters; those of the recommender if None.

    Raises:
        UserError: if a name is unknown, a value has a wrong type or range, or a required value is
            missing. One message lists all problems, with the closest name for an unknown one.
    """
    known, problems = declared or run_parameters(), list[str]()
    files = origins or {}
    result: dict[str, Any] = {}

    def told(problem: str, *names: str) -> None:
        said = sorted({f"{name} is from {files[name]}" for name in names if name in files})
        problems.append(problem + (f" ({'; '.join(said)})" if said else ""))

    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else " See `macrec parameters`."
            told(f"unknown parameter {name}.{hint}", name)
            continue
        try:
            result[name] = value if isinstance(value, dict | list) else parse(known[name], value)
            if isinstance(value, list) and known[name].kind is not list:
                result[name] = parse(known[name], value)
        except UserError as error:
            told(str(error), name)
    for stage_name, prefix in ALL_PREFIXES.items():
        stage = stage_named(stage_name)
        own = {n.removeprefix(prefix): v for n, v in result.items() if n.startswith(prefix)}
        try:
            build(stage.settings, own)
            build(stage.execution, own)
        except UserError as error:
            words = set(re.findall(r"\w+", str(error)))
            problem = f"{stage_name}: {str(error).removeprefix(f'{stage_name}: ')}"
            told(problem, *(prefix + n for n in own if n in words))
    absent = [n for n, p in known.items() if p.default is REQUIRED and not result.get(n)]
    problems += [f"{name} is required: {known[name].doc}" for name in absent]
    if problems:
        raise UserError("configuration: " + "\n  ".join(problems))
    return result
