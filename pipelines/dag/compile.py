"""Compiles a DAG to a YAML file, with pinned images and the choices of enumerations."""

import importlib
import json
from pathlib import Path
from typing import Any

import yaml

from macrec.core.errors import check
from macrec.core.parameters import Parameter
from pipelines.dag.run_form import encode_parameters, run_parameters

ROOT = Path(__file__).parent.parent.parent
IMAGES_LOCK = ROOT / "docker" / "images.lock"
HEADER = "# Compiled by `macrec compile` from pipelines/{}.py and components/. Do not edit.\n"


def locked_images() -> dict[str, str]:
    """The image of each pool, as built last."""
    return json.loads(IMAGES_LOCK.read_text())


def compiled(
    images: dict[str, str] | None = None, name: str = "recommender", embedding_shards: int = 1
) -> str:
    """The text of a pipeline's file: the pipeline, then what is specific to Kubernetes."""
    check(embedding_shards >= 1, f"embedding_shards={embedding_shards}: must be at least 1.")
    from google.protobuf import json_format

    # Not Compiler().compile: its comment header breaks on a default that has a line break.
    built = importlib.import_module(f"pipelines.dag.{name}").pipeline(
        embedding_shards=embedding_shards
    )
    documents: list[dict[str, Any]] = [
        json_format.MessageToDict(part) for part in (built.pipeline_spec, built.platform_spec)
    ]
    _pin_images(documents[0], images or locked_images())
    _add_choices(documents[0], encode_parameters() if name == "encode" else run_parameters())
    body = "---\n".join(yaml.safe_dump(d, sort_keys=True, width=100) for d in documents)
    return HEADER.format(name) + body


def _pin_images(spec: dict[str, Any], images: dict[str, str]) -> None:
    executors = spec["deploymentSpec"]["executors"].values()
    for executor in (e for e in executors if "container" in e):
        pool = executor["container"]["image"].removeprefix("macrec-")
        executor["container"]["image"] = images[pool]


def _add_choices(spec: dict[str, Any], parameters: dict[str, Parameter]) -> None:
    """The backend validates `literals` and the UI offers them; the SDK cannot emit them."""
    declared = spec["root"]["inputDefinitions"]["parameters"]
    for name, parameter in parameters.items():
        if parameter.choices:
            declared[name]["literals"] = list(parameter.choices)
