"""The Kubernetes checks of `macrec lint`: node pools, requests, volumes, deadlines, security."""

from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

GPU = "nvidia.com/gpu"
SHARED_MEMORY = "/dev/shm"


def platform_problems(spec: Json, platform: Json) -> Iterator[str]:
    """Yield the problems of the pod settings, also where they do not match the containers."""
    executors = spec["deploymentSpec"].get("executors", {})
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for label in pods:
        if label not in executors:
            yield f"{label}: settings of a pod without a container."
    for label, executor in executors.items():
        if "container" not in executor:
            continue
        pod = pods.get(label, {})
        yield from _pool_problems(label, executor["container"], pod)
        yield from _request_problems(label, executor["container"])
        yield from _pod_problems(label, pod)
        for place, wanted in run_inputs(pod, label):
            if wanted not in spec["root"]["inputDefinitions"].get("parameters", {}):
                yield f"{place}: componentInputParameter {wanted} is no input of the pipeline."


def _pool_problems(label: str, container: Json, pod: Json) -> Iterator[str]:
    """Yield problems of node placement and GPU settings.

    A GPU limit and the node selector and tolerations of the GPU pool require each other. Other
    tasks need a node affinity that keeps them off the GPU pool.
    """
    accelerator = container.get("resources", {}).get("accelerator")
    if accelerator is None:
        for name in ("tolerations", "nodeSelector"):
            if name in pod:
                yield f"{label}: {name} of the GPU pool, but no GPU limit."
        if "nodeAffinity" not in pod:
            yield f"{label}: no GPU limit, but nothing keeps it off the GPU pool (nodeAffinity)."
        return
    for name in ("tolerations", "nodeSelector"):
        if name not in pod:
            yield f"{label}: a GPU limit without {name}; no node of a GPU pool would take it."
    if GPU not in (accelerator.get("resourceType"), accelerator.get("type")):
        yield f"{label}: the accelerator is not {GPU}."
    if not accelerator.get("resourceCount") and not accelerator.get("count"):
        yield f"{label}: an accelerator without a count."
    mounts = pod.get("emptyDirMounts", ())
    if SHARED_MEMORY not in [m.get("mountPath") for m in mounts if m.get("medium") == "Memory"]:
        yield f"{label}: a GPU task without {SHARED_MEMORY} in memory; its 64 MiB do not suffice."


def _request_problems(label: str, container: Json) -> Iterator[str]:
    """Yield containers without CPU or memory requests; Kubernetes evicts them first."""
    resources = container.get("resources", {})
    absent = [n for n in ("Cpu", "Memory") if not resources.get(f"resource{n}Request")]
    if absent:
        missing = " and ".join("CPU" if name == "Cpu" else "memory" for name in absent)
        yield f"{label}: no {missing} request, so a full node evicts it first (BestEffort)."


def _pod_problems(label: str, pod: Json) -> Iterator[str]:
    if not int(pod.get("activeDeadlineSeconds", 0)):
        yield f"{label}: no timeout."
    if not pod.get("imagePullPolicy"):
        yield f"{label}: no image pull policy."
    security = pod.get("securityContext", {})
    if not security.get("runAsNonRoot") or not int(security.get("runAsUser", 0)):
        yield f"{label}: its security context lets it run as root."
    for secret in pod.get("secretAsEnv", ()):
        if not secret.get("optional"):
            yield f"{label}: the secret {secret.get('secretName')} is not optional."


def run_inputs(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield every run parameter that a part of the document references, with its place."""
    if isinstance(value, list):
        for inner in value:
            yield from run_inputs(inner, place)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key == "componentInputParameter":
                yield place, inner
            else:
                yield from run_inputs(inner, f"{place}.{key}")
