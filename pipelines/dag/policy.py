"""`macrec lint`: checks that the KFP compiler omits and a cluster would make too late.

Dangling references compile, and so do GPU tasks that no node accepts. The run then fails or waits
forever when it reaches them. All problems are reported in one message, each with its place.
"""

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from macrec.core.errors import UserError
from pipelines.dag.platform_policy import GPU, platform_problems, run_inputs

Json = Mapping[str, Any]

NEVER_CACHED = "comp-snapshot-catalog"
"""The component that detects new data; a cached result would hide it."""
MOVING_TAGS = ("", "latest", "main", "master", "dev", "stable", "nightly")
# Inputs that the SDK adds to a task for its resources; no component declares them.
_FOR_RESOURCES = re.compile(r"pipelinechannel--|accelerator_count$|accelerator_type$")
_PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
_BOOLEAN = "BOOLEAN"
_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    _BOOLEAN: (bool,),
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "LIST": (list,),
    "STRUCT": (dict,),
}


def lint(path: Path, digests: bool = False) -> str:
    """Check a compiled pipeline and return a summary of what was checked.

    Args:
        path: file of the compiled pipeline, with its two documents.
        digests: whether to require a digest for every image; otherwise a fixed tag passes too.

    Raises:
        UserError: if the file does not exist, is not a pipeline, or has problems. The message
            lists all problems.
    """
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. `macrec compile` writes pipeline.yaml.") from error
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{path}: no compiled pipeline ({told}).") from error
    found = problems(documents, digests)
    if found:
        raise UserError(f"{path}: {len(found)} problems\n  " + "\n  ".join(found))
    tasks = documents[0]["root"]["dag"]["tasks"]
    declared = documents[0]["root"]["inputDefinitions"]["parameters"]
    return f"{path}: {len(tasks)} tasks, {len(declared)} run parameters, no problem found"


def problems(documents: list[Any], digests: bool = False) -> list[str]:
    """Return all problems in the two documents of a compiled pipeline."""
    try:
        spec, platform = _as_kfp_reads_them(documents)
    except ValueError as error:
        return [str(error)]
    found = [*_reference_problems(spec), *_run_parameter_problems(spec, platform)]
    return [
        *found,
        *_task_problems(spec),
        *_image_problems(spec, digests),
        *platform_problems(spec, platform),
    ]


def _as_kfp_reads_them(documents: list[Any]) -> tuple[Json, Json]:
    """Return PipelineSpec and PlatformSpec as KFP parses them, without empty fields such as null.

    Raises:
        ValueError: if KFP does not know a field, a field has the wrong type, or there are no tasks.
    """
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2
    from kfp.pipeline_spec import pipeline_spec_pb2

    # The protobuf classes are created on import, so a type checker cannot see them.
    kfp: Any = pipeline_spec_pb2
    kubernetes: Any = kubernetes_executor_config_pb2
    if len(documents) != 2 or not all(isinstance(document, dict) for document in documents):
        raise ValueError(f"{len(documents)} documents; expected PipelineSpec and PlatformSpec.")

    def read(what: Any, message: Any) -> Any:
        return json_format.MessageToDict(json_format.ParseDict(what, message))

    try:
        spec = read(documents[0], kfp.PipelineSpec())
        platform = read(documents[1], kfp.PlatformSpec())
        pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for label, pod in pods.items():
            pods[label] = read(pod, kubernetes.KubernetesExecutorConfig())
    except (json_format.ParseError, KeyError) as error:
        raise ValueError(f"not a PipelineSpec and a PlatformSpec of KFP: {error}") from error
    missing = {"root", "components", "deploymentSpec"} - set(spec)
    if missing or "tasks" not in spec["root"].get("dag", {}):
        raise ValueError("a PipelineSpec without root tasks, components or executors.")
    return spec, platform


def _component(spec: Json, task: Json) -> Json:
    """Return the component that the task runs.

    The result is empty for a dangling reference, which `_reference_problems` reports.
    """
    return spec["components"].get(task.get("componentRef", {}).get("name"), {})


def _inputs(of: Json, kind: str) -> Json:
    return of.get("inputDefinitions", {}).get(kind, {})


def _reference_problems(spec: Json) -> Iterator[str]:
    """Yield dangling references, nested DAGs and cycles."""
    executors, tasks = spec["deploymentSpec"].get("executors", {}), spec["root"]["dag"]["tasks"]
    for name, component in spec["components"].items():
        if "dag" in component:
            yield f"{name}: a DAG in the DAG; the UI hides it in one box. Keep the root flat."
        elif component.get("executorLabel") not in executors:
            yield f"{name}: executorLabel {component.get('executorLabel')} has no executor."
    for name, task in tasks.items():
        reference = task.get("componentRef", {}).get("name")
        if reference not in spec["components"]:
            yield f"{name}: componentRef {reference} is no component."
            continue
        for before in task.get("dependentTasks", ()):
            if before not in tasks:
                yield f"{name}: dependentTasks names {before}, which is no task."
        yield from _input_problems(name, task, spec)
    try:
        TopologicalSorter({n: t.get("dependentTasks", ()) for n, t in tasks.items()}).prepare()
    except CycleError as error:
        yield f"tasks wait for each other: {' -> '.join(error.args[1])}."


def _input_problems(name: str, task: Json, spec: Json) -> Iterator[str]:
    """Yield problems of a task's inputs: their origins, names and types."""
    for kind, singular in (("parameters", "Parameter"), ("artifacts", "Artifact")):
        takes = _inputs(_component(spec, task), kind)
        has = task.get("inputs", {}).get(kind, {})
        for key, value in has.items():
            if key not in takes and not _FOR_RESOURCES.match(key):
                yield f"{name}: gives {key}, which its component does not take."
            yield from _origin_problems(f"{name}.{key}", name, value, kind, singular, spec)
            given = _inputs(spec["root"], kind).get(value.get("componentInputParameter"), {})
            types = [of.get("parameterType") for of in (given, takes.get(key, {}))]
            if types[0] != types[1] and None not in types:
                yield f"{name}.{key}: is a {types[1]}, the run parameter a {types[0]}."
        for key, definition in takes.items():
            if key not in has and not definition.get("isOptional"):
                yield f"{name}: lacks {key}, which its component requires."


def _origin_problems(
    place: str, name: str, value: Json, kind: str, singular: str, spec: Json
) -> Iterator[str]:
    """Yield problems of the run parameter or task output that one input comes from."""
    tasks = spec["root"]["dag"]["tasks"]
    wanted = value.get(f"componentInput{singular}")
    if wanted is not None and wanted not in _inputs(spec["root"], kind):
        yield f"{place}: componentInput{singular} {wanted} is no input of the pipeline."
    constant = value.get("runtimeValue", {}).get("constant")
    yield from _placeholder_problems(place, constant, tasks[name])
    output = value.get(f"taskOutput{singular}")
    if output is None:
        return
    producer, key = output.get("producerTask"), output.get(f"output{singular}Key")
    if producer not in tasks:
        yield f"{place}: taskOutput{singular} of {producer}, which is no task."
        return
    if producer not in tasks[name].get("dependentTasks", ()):
        yield f"{place}: comes from {producer}, which dependentTasks does not name."
    made = _component(spec, tasks[producer]).get("outputDefinitions", {}).get(kind, {})
    if key not in made:
        yield f"{place}: {producer} has no output {key}."


def _placeholder_problems(place: str, text: Any, task: Json) -> Iterator[str]:
    for name in _PLACEHOLDER.findall(str(text)):
        if name not in task.get("inputs", {}).get("parameters", {}):
            yield f"{place}: names the input {name}, which the task is not given."


def _run_parameter_problems(spec: Json, platform: Json) -> Iterator[str]:
    """Yield problems of the run form.

    Every run parameter must be used and must have a description. A default must have the declared
    type and be one of the literals, if there are any.
    """
    tasks = spec["root"]["dag"]["tasks"].values()
    named = {wanted for _, wanted in run_inputs([*tasks, platform])}
    for name, parameter in _inputs(spec["root"], "parameters").items():
        if name not in named:
            yield f"{name}: run parameter that nothing takes."
        if not parameter.get("description"):
            yield f"{name}: run parameter without a description."
        if "defaultValue" not in parameter:
            if parameter.get("isOptional"):
                yield f"{name}: optional run parameter without a default."
            continue
        default, kind = parameter["defaultValue"], parameter["parameterType"]
        if not isinstance(default, _TYPES[kind]) or isinstance(default, bool) != (kind == _BOOLEAN):
            yield f"{name}: the default {default!r} is no {kind}."
        literals = parameter.get("literals", ())
        if literals and default not in literals:
            yield f"{name}: the default {default!r} is none of its literals."


def _task_problems(spec: Json) -> Iterator[str]:
    """Yield problems of how tasks are displayed, cached and retried."""
    executors = spec["deploymentSpec"].get("executors", {})
    for name, task in spec["root"]["dag"]["tasks"].items():
        if task.get("taskInfo", {}).get("name", name) == name:
            yield f"{name}: no display name."
        yield from _caching_problems(name, task)
        executor = executors.get(_component(spec, task).get("executorLabel"), {})
        if "container" not in executor:
            continue  # an importer
        retry = task.get("retryPolicy", {})
        what = "a GPU task" if GPU in str(executor["container"].get("resources")) else "a task"
        if not retry.get("maxRetryCount"):
            yield f"{name}: {what} without retries; a preempted node would end the run."
        elif not {"backoffDuration", "backoffFactor"} <= set(retry):
            yield f"{name}: retries without backoff."
        yield from _placeholder_problems(f"{name}, its container", executor["container"], task)
        yield from _resource_problems(name, executor["container"], task, spec)


def _resource_problems(name: str, container: Json, task: Json, spec: Json) -> Iterator[str]:
    """Yield run parameters that set a task's resources but are not of type STRING.

    KFP's driver reads such a parameter as text and ignores a value of any other type.
    """
    for wanted in _PLACEHOLDER.findall(str(container.get("resources"))):
        given = task.get("inputs", {}).get("parameters", {}).get(wanted, {})
        parameter = given.get("componentInputParameter")
        kind = _inputs(spec["root"], "parameters").get(parameter, {}).get("parameterType")
        if kind not in (None, "STRING"):
            yield f"{name}: its resources go by {parameter}, a {kind}; KFP takes only a STRING."


def _caching_problems(name: str, task: Json) -> Iterator[str]:
    caching = task.get("cachingOptions", {})
    never = task.get("componentRef", {}).get("name") == NEVER_CACHED
    if never and caching.get("enableCache"):
        yield f"{name}: is cached, so new data would go unnoticed."
    if not never and not caching.get("enableCache"):
        yield f"{name}: is not cached."
    if caching.get("cacheKey"):
        yield f"{name}: cacheKey takes results of other inputs for its own. Remove it."


def _image_problems(spec: Json, digests: bool) -> Iterator[str]:
    """Yield images whose name may refer to a different image later."""
    for label, executor in spec["deploymentSpec"].get("executors", {}).items():
        image = executor.get("container", {}).get("image")
        if image is None or re.search(r"@sha256:[0-9a-f]{64}$", image):
            continue
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@" in image or tag in MOVING_TAGS:
            yield f"{label}: image {image!r} is not pinned. Name it by its digest."
        elif digests:
            yield f"{label}: image {image!r} is named by a tag, which can move. Give a digest."
