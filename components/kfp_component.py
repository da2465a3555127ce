"""Derives the KFP container component of a stage from its spec.py.

The component's inputs, outputs and descriptions are the fields of Inputs and Outputs, so component
and stage cannot drift apart. Settings and Execution are one JSON parameter.
"""

import dataclasses
import inspect
import typing
from functools import cache
from typing import Any

from kfp import dsl

from macrec.core.artifact import ParameterOutput, StructOutput
from macrec.core.settings import Parameter, fields
from macrec.core.stage import Stage
from macrec.core.stage_command import METRICS, SETTINGS, common_parameters

_KFP_TYPES = {str: str, int: int, float: float, bool: bool, dict: dict}


@cache
def container_component(stage: Stage) -> Any:
    """Return a container component that runs the stage in the image of its pool.

    The image is named after the pool here. Compiling the pipeline replaces the name by a pinned
    image.
    """

    def component(*_: Any) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(
            image=f"macrec-{stage.pool}",
            command=["python", "-m", "components", stage.name],
            args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
        )

    declared = parameters(stage)
    artifacts = stage.artifacts
    arguments = [_argument(p.name, dsl.Input[dsl.Artifact], p.default) for p in artifacts]
    arguments += [_argument(p.name, kfp_type(p), p.default) for p in declared]
    for output in fields(stage.outputs):
        kind = output.kind.kfp_type
        if output.kind is StructOutput:
            annotation = dsl.OutputPath(dict)
        elif output.kind is ParameterOutput:
            annotation = dsl.OutputPath(str)
        else:
            annotation = dsl.Output[getattr(dsl, kind)]
        arguments.append(_argument(output.name, annotation))
    arguments.append(_argument(METRICS, dsl.Output[dsl.Metrics]))
    component.__name__ = stage.name
    component.__doc__ = _docstring(stage, declared)
    component.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    component.__annotations__ = {a.name: a.annotation for a in arguments}
    return dsl.container_component(component)


def parameters(stage: Stage) -> list[Parameter]:
    """Return what a stage takes by value: URIs with their digests, then its settings."""
    uris: list[Parameter] = []
    for p in stage.sources:
        uris.append(Parameter(p.name, str, "", p.doc))
        uris.append(Parameter(f"{p.name}_snapshot", str, "", f"Digest of {p.name}, if known."))
    doc = f"Settings as JSON; `macrec settings {stage.name}` lists them."
    together = Parameter(SETTINGS, dict, {}, doc)
    settings = stage.parameters if stage.separate_settings else [together]
    return [*uris, *settings, *common_parameters(stage)]


def kfp_type(parameter: Parameter) -> Any:
    """Return the KFP type of a parameter; enumerations become strings and tuples become lists."""
    if parameter.choices:
        return str
    return _KFP_TYPES.get(typing.get_origin(parameter.kind) or parameter.kind, list)


def kfp_default(parameter: Parameter) -> Any:
    """Return the default as KFP represents it, or `inspect.Parameter.empty` if there is none."""
    if parameter.required:
        return inspect.Parameter.empty
    return list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default


def _argument(name: str, annotation: Any, default: Any = dataclasses.MISSING) -> inspect.Parameter:
    default = kfp_default(Parameter(name, annotation, default, ""))
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _docstring(stage: Stage, declared: list[Parameter]) -> str:
    documented = [*stage.artifacts, *declared, *fields(stage.outputs)]
    lines = [f"    {p.name}: {' '.join(p.doc.split())}" for p in documented]
    return "\n".join([stage.summary, "", "Args:", *lines])
