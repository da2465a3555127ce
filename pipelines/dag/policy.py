"""`macrec lint`: checks that KFP's compiler and loader omit and a cluster would make too late.

KFP compiles references to names that do not exist, and GPU tasks that no node accepts. The run then
fails or waits forever when it reaches them. One message lists all problems, each with its place.
"""

import json
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from macrec.core.errors import UserError

Json = Mapping[str, Any]

NEVER_CACHED = "comp-check-run"
"""The component that detects new data; a cached result would hide it."""
GPU = "nvidia.com/gpu"
SHARED_MEMORY = "/dev/shm"
MOVING_TAGS = ("", "latest", "main", "master", "dev", "stable", "nightly")
_GPU_POOL = {"nodeSelector", "tolerations"}
_REQUESTS = {"resourceCpuRequest", "resourceMemoryRequest"}
_PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")


class Pipeline(NamedTuple):
    """The parts of a compiled pipeline that the checks read, by name."""

    tasks: Json
    components: Json
    parameters: Json
    """The run parameters."""
    executors: Json
    pods: Json
    """The Kubernetes settings of the executors."""

    def component(self, task: str) -> Json:
        """Return the component of a task; empty if one of them does not exist."""
        return self.components.get(self.tasks.get(task, {}).get("componentRef", {}).get("name"), {})


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
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a compiled pipeline ({reason}).") from error
    if lines := problems(documents, digests):
        raise UserError(f"{path}: {len(lines)} problems\n  " + "\n  ".join(lines))
    root = documents[0]["root"]
    tasks, parameters = root["dag"]["tasks"], root["inputDefinitions"]["parameters"]
    return f"{path}: {len(tasks)} tasks, {len(parameters)} run parameters, no problem found"


def problems(documents: list[Any], digests: bool = False) -> list[str]:
    """Return all problems in the two documents of a compiled pipeline."""
    try:
        pipeline = _parse(documents)
    except ValueError as error:
        return [str(error)]
    lines = [*_dangling_names(pipeline), *_run_form_problems(pipeline)]
    for name in pipeline.tasks:
        lines += _task_problems(name, pipeline)
    for label, executor in pipeline.executors.items():
        if container := executor.get("container"):  # an importer has none
            lines += _container_problems(label, container, pipeline.pods.get(label, {}), digests)
    return lines


def _parse(documents: list[Any]) -> Pipeline:
    """Parse the documents with KFP's schema; raise ValueError for what it does not accept."""
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2
    from kfp.pipeline_spec import pipeline_spec_pb2

    # The protobuf classes are created on import, so a type checker cannot see them.
    kfp: Any = pipeline_spec_pb2
    kubernetes: Any = kubernetes_executor_config_pb2
    if len(documents) != 2 or not all(isinstance(document, dict) for document in documents):
        raise ValueError(f"{len(documents)} documents; expected PipelineSpec and PlatformSpec.")

    def read(document: Any, message: Any) -> Any:
        return json_format.MessageToDict(json_format.ParseDict(document, message))

    try:
        spec = read(documents[0], kfp.PipelineSpec())
        platform = read(documents[1], kfp.PlatformSpec())["platforms"]["kubernetes"]
        pods = platform["deploymentSpec"]["executors"]
        return Pipeline(
            tasks=spec["root"]["dag"]["tasks"],
            components=spec["components"],
            parameters=spec["root"]["inputDefinitions"]["parameters"],
            executors=spec["deploymentSpec"]["executors"],
            pods={k: read(v, kubernetes.KubernetesExecutorConfig()) for k, v in pods.items()},
        )
    except (json_format.ParseError, KeyError) as error:
        raise ValueError(f"not a PipelineSpec and a PlatformSpec of KFP: {error}.") from error


def _entries(value: Json, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield place, key and value of every entry at any depth; a list yields each of its items."""
    for key, inner in value.items():
        for item in inner if isinstance(inner, list) else [inner]:
            yield place, key, item
            if isinstance(item, dict):
                yield from _entries(item, f"{place}.{key}".lstrip("."))


def _dangling_names(pipeline: Pipeline) -> Iterator[str]:
    """Yield references to names that do not exist, and cycles."""
    tasks = pipeline.tasks
    declared: dict[str, Any] = {
        "componentInputParameter": pipeline.parameters,
        "componentInputArtifact": (),  # pipelines here have no input artifacts
        "producerTask": tasks,
        "dependentTasks": tasks,
        "componentRef": pipeline.components,
        "executorLabel": pipeline.executors,
    }
    for place, key, value in _entries({**tasks, **pipeline.components, **pipeline.pods}):
        name = value.get("name") if key == "componentRef" else value
        if key in declared and name not in declared[key]:
            yield f"{place}: {key} {name} does not exist."
        if key in ("taskOutputParameter", "taskOutputArtifact"):
            producer = value.get("producerTask")
            output = value.get("outputParameterKey") or value.get("outputArtifactKey")
            made = pipeline.component(producer).get("outputDefinitions", {})
            if output not in {**made.get("parameters", {}), **made.get("artifacts", {})}:
                yield f"{place}.{key}: {producer} has no output {output}."
    for label in sorted(set(pipeline.pods) - set(pipeline.executors)):
        yield f"{label}: pod settings of an executor that does not exist."
    try:
        TopologicalSorter({n: t.get("dependentTasks", ()) for n, t in tasks.items()}).prepare()
    except CycleError as error:
        yield f"tasks wait for each other: {' -> '.join(error.args[1])}."


def _run_form_problems(pipeline: Pipeline) -> Iterator[str]:
    used = {v for _, k, v in _entries(pipeline._asdict()) if k == "componentInputParameter"}
    for name, parameter in pipeline.parameters.items():
        if name not in used:
            yield f"{name}: run parameter that no task uses."
        if not parameter.get("description"):
            yield f"{name}: run parameter without a description."
        default, literals = parameter.get("defaultValue"), parameter.get("literals")
        if literals and default is not None and default not in literals:
            yield f"{name}: the default {default!r} is not one of its literals."


def _task_problems(name: str, pipeline: Pipeline) -> Iterator[str]:
    """Yield problems of how a task is displayed, cached and retried, and of its inputs."""
    task, component = pipeline.tasks[name], pipeline.component(name)
    container = pipeline.executors.get(component.get("executorLabel", ""), {}).get("container", {})
    caching, retry = task.get("cachingOptions", {}), task.get("retryPolicy", {})
    is_cached = bool(caching.get("enableCache"))
    is_first = task.get("componentRef", {}).get("name") == NEVER_CACHED
    has_backoff = {"backoffDuration", "backoffFactor"} <= set(retry)
    rules = {
        "a DAG in the DAG; the UI hides it in one box. Keep the root flat": "dag" in component,
        "no display name": task.get("taskInfo", {}).get("name", name) == name,
        "is cached, so new data would go unnoticed": is_first and is_cached,
        "is not cached": not is_first and not is_cached,
        "cacheKey makes KFP reuse results of other inputs. Remove it": "cacheKey" in caching,
        "no retries; a preempted node ends the run": container and "maxRetryCount" not in retry,
        "retries without backoff": retry and not has_backoff,
    }
    yield from (f"{name}: {rule}." for rule, is_broken in rules.items() if is_broken)
    inputs = task.get("inputs", {}).get("parameters", {})
    declared = component.get("inputDefinitions", {}).get("parameters", {})
    referenced = set(_PLACEHOLDER.findall(json.dumps([inputs, container])))
    for wanted in sorted(referenced - {*inputs, *declared}):
        yield f"{name}: refers to its input {wanted}, which does not exist."
    for wanted in _PLACEHOLDER.findall(json.dumps(container.get("resources"))):
        parameter = inputs.get(wanted, {}).get("componentInputParameter", "")
        kind = pipeline.parameters.get(parameter, {}).get("parameterType", "STRING")
        if kind != "STRING":
            yield f"{name}: {parameter} sets its resources and is a {kind}; KFP reads only STRING."


def _container_problems(label: str, container: Json, pod: Json, digests: bool) -> Iterator[str]:
    """Yield problems of the image, requests, node pool, deadline and security of a container."""
    image, resources = container.get("image", ""), container.get("resources", {})
    tag = "" if "@" in image else image.rpartition("/")[2].partition(":")[2]
    is_pinned = re.search(r"@sha256:[0-9a-f]{64}$", image) or not (digests or tag in MOVING_TAGS)
    security, secrets = pod.get("securityContext", {}), pod.get("secretAsEnv", ())
    is_root = not security.get("runAsNonRoot") or not int(security.get("runAsUser", 0))
    rules: dict[str, Any] = {
        f"image {image!r} is not pinned. Name it by its digest": not is_pinned,
        "no CPU or memory request, so a full node evicts it first": _REQUESTS - set(resources),
        "no timeout": "activeDeadlineSeconds" not in pod,
        "no image pull policy": "imagePullPolicy" not in pod,
        "its security context lets it run as root": is_root,
        "a secret that is not optional": not all(secret.get("optional") for secret in secrets),
    }
    if gpu := resources.get("accelerator"):
        types = (gpu.get("resourceType"), gpu.get("type"))
        mounts = {m.get("mountPath"): m.get("medium") for m in pod.get("emptyDirMounts", ())}
        rules |= {
            "a GPU limit without nodeSelector or tolerations of the pool": _GPU_POOL - set(pod),
            f"the accelerator is not {GPU}": GPU not in types,
            "an accelerator without a count": not {"resourceCount", "count"} & set(gpu),
            f"a GPU task without {SHARED_MEMORY} in memory": mounts.get(SHARED_MEMORY) != "Memory",
        }
    else:
        rules |= {
            "nodeSelector or tolerations, but no GPU limit": _GPU_POOL & set(pod),
            "no GPU limit, but no nodeAffinity keeps it off the pool": "nodeAffinity" not in pod,
        }
    yield from (f"{label}: {rule}." for rule, is_broken in rules.items() if is_broken)
