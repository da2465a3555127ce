"""The run parameters: every stage's settings under the stage's prefix, and what is wired by hand.

Light to import: the command line checks a configuration with it before KFP is loaded.
"""

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from macrec.errors import UserError
from macrec.fingerprint import Stage
from macrec.parameters import Parameter, build, parse
from macrec.stage import settings
from macrec.stage_cli import COMMON

# Stage -> prefix of its settings among the run parameters, in the order of the DAG.
PREFIXES = {
    "snapshot_catalog": "snapshot_",
    "prepare_data": "catalog_",
    "embed_text": "text_",
    "embed_image": "image_",
    "pseudo_label": "label_",
    "quantize": "quantizer_",
    "resolve_collisions": "resolver_",
    "train": "generator_",
    "evaluate": "evaluation_",
}
# External data (the inputs of snapshot_catalog) -> run parameter.
SOURCES = {
    "items": "catalog_items",
    "interactions": "catalog_interactions",
    "images": "catalog_images",
    "text_model": "text_model",
    "image_model": "image_model",
    "text_embeddings": "text_embeddings",
    "image_embeddings": "image_embeddings",
}
REQUIRED = dataclasses.MISSING
CLUSTER = [
    Parameter("gpu_count", int, 1, "GPUs of each task on the GPU pool."),
    Parameter("gpu_node_selector", dict, {}, "Node labels of the GPU pool, as JSON."),
    Parameter("gpu_tolerations", list, [], "Tolerations of the GPU pool's taints, as JSON."),
]


def stage(name: str) -> Stage:
    """The module of a stage."""
    return importlib.import_module(f"components.{name}.main")  # type: ignore[return-value]


@lru_cache(maxsize=1)
def run_parameters() -> dict[str, Parameter]:
    """Every run parameter by name."""
    from macrec.parameters import fields

    docs = {p.name: p.doc for p in fields(stage("snapshot_catalog").Inputs)}
    result: dict[str, Parameter] = {}
    for source, name in SOURCES.items():
        default = REQUIRED if source in ("items", "interactions") else ""
        result[name] = Parameter(name, str, default, docs[source])
    for stage_name, prefix in PREFIXES.items():
        for setting in settings(stage(stage_name)):
            name = prefix + setting.name
            assert name not in result, f"two run parameters are called {name}"
            result[name] = setting._replace(name=name)
    result |= {p.name: p for p in [*CLUSTER, *COMMON]}
    return result


def resolve(values: Mapping[str, Any]) -> dict[str, Any]:
    """Typed values for a run from what the user gave, all problems in one message.

    Raises:
        UserError: unknown names (with the nearest known one), values of a wrong type or range.
    """
    known, problems = run_parameters(), list[str]()
    result: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else " See `macrec parameters`."
            problems.append(f"unknown parameter {name}.{hint}")
            continue
        try:
            result[name] = value if isinstance(value, dict | list) else parse(known[name], value)
            if isinstance(value, list) and known[name].kind is not list:
                result[name] = parse(known[name], value)
        except UserError as error:
            problems.append(str(error))
    for stage_name, prefix in PREFIXES.items():
        module = stage(stage_name)
        own = {n.removeprefix(prefix): v for n, v in result.items() if n.startswith(prefix)}
        try:
            build(module.Config, own)
            build(module.Execution, own)
        except UserError as error:
            problems.append(f"{stage_name}: {error}")
    absent = [n for n, p in known.items() if p.default is REQUIRED and not result.get(n)]
    problems += [f"{name} is required: {known[name].doc}" for name in absent]
    if problems:
        raise UserError("configuration: " + "\n  ".join(problems))
    return result
