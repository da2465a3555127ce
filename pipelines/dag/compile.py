"""Compiles a DAG to YAML with pinned images and the choices of enumeration parameters."""

import importlib
import json
from pathlib import Path
from typing import Any

import yaml

from components.run_form import FORMS, Form
from components.stages import STAGES
from macrec.core.errors import check
from macrec.core.stage import Stage

ROOT = Path(__file__).parent.parent.parent
IMAGES_LOCK = ROOT / "docker" / "images.lock"
HEADER = "# Compiled by `macrec compile` from pipelines/dag/{}.py and components/. Do not edit.\n"
COMPONENT_HEADER = "# Compiled by `macrec compile` from {}. Do not edit.\n"


def locked_images() -> dict[str, str]:
    """Return the image of each pool as recorded in docker/images.lock."""
    return json.loads(IMAGES_LOCK.read_text())


def compile_pipeline(
    images: dict[str, str] | None = None,
    name: str = "recommender",
    embedding_shards: int = 1,
    resources: Path | None = None,
) -> str:
    """Return the text of a compiled pipeline: PipelineSpec, then PlatformSpec for Kubernetes."""
    check(embedding_shards >= 1, f"embedding_shards={embedding_shards}: must be at least 1.")
    from google.protobuf import json_format

    # Compiler().compile is not used: a default with a line break makes its comment header invalid.
    built = importlib.import_module(f"pipelines.dag.{name}").pipeline(
        embedding_shards=embedding_shards, resources=resources
    )
    documents: list[dict[str, Any]] = [
        json_format.MessageToDict(part) for part in (built.pipeline_spec, built.platform_spec)
    ]
    _pin_images(documents[0], images or locked_images())
    _add_choices(documents[0], FORMS[name])
    body = "---\n".join(yaml.safe_dump(d, sort_keys=True, width=100) for d in documents)
    return HEADER.format(name) + body


def component_path(stage: Stage) -> Path:
    """Return the path of a stage's KFP component, which other pipelines can load."""
    return ROOT / "components" / stage.name / "component.yaml"


def compile_component(stage: Stage, images: dict[str, str] | None = None) -> str:
    """Return the text of a stage's KFP component.

    `kfp.components.load_component_from_file` reads it.
    """
    from google.protobuf import json_format

    from components.kfp_component import container_component

    document = json_format.MessageToDict(container_component(stage).pipeline_spec)
    _pin_images(document, images or locked_images())
    body = yaml.safe_dump(document, sort_keys=True, width=100)
    return COMPONENT_HEADER.format(f"components/{stage.name}/spec.py") + body


def write_components(images: dict[str, str]) -> None:
    """Write the component.yaml of every stage."""
    for stage in STAGES:
        component_path(stage).write_text(compile_component(stage, images))


def _pin_images(spec: dict[str, Any], images: dict[str, str]) -> None:
    executors = spec["deploymentSpec"]["executors"].values()
    for executor in (e for e in executors if "container" in e):
        pool = executor["container"]["image"].removeprefix("macrec-")
        executor["container"]["image"] = images[pool]


def _add_choices(spec: dict[str, Any], form: Form) -> None:
    """Add `literals` to the fields of the run form that have choices.

    The backend validates them and the UI offers them, but the SDK cannot emit them.
    """
    declared = spec["root"]["inputDefinitions"]["parameters"]
    for name, parameter in form.fields.items():
        if parameter.choices:
            declared[name]["literals"] = list(parameter.choices)
