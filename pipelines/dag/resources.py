"""CPU and memory requests and limits of every task, from defaults and a file.

They are not part of KFP's cache key, so a change of resources does not recompute a task.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from kfp import dsl

from macrec.core.errors import UserError
from pipelines.dag.config_file import read_yaml

# Quantities as Kubernetes writes them: 500m, 2, 1.5; 512Mi, 8Gi, 16G.
CPU = re.compile(r"\d+(\.\d+)?|\d+m")
MEMORY = re.compile(r"\d+(\.\d+)?([KMGTPE]i?)?")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """CPU and memory of a task; KFP sets no value for an empty field."""

    cpu_request: str = ""
    """CPUs that the node reserves, such as 500m or 2."""
    cpu_limit: str = ""
    """CPUs that the task may use at most; Kubernetes throttles it at this limit."""
    memory_request: str = ""
    """Memory that the node reserves, such as 4Gi."""
    memory_limit: str = ""
    """Memory that the task may use at most; Kubernetes kills it beyond this limit."""

    def apply(self, task: dsl.PipelineTask) -> None:
        """Set the requests and limits on a task."""
        for field in fields(self):
            if value := getattr(self, field.name):
                getattr(task, f"set_{field.name}")(value)


# Requests for up to about 100,000 items, from measured peaks; docs/scale.md has the formulas for
# more. GPU tasks request what the smallest usual GPU node (4 CPUs, 16 GB) has left. There are no
# limits: the need depends on the catalogue, and a limit that is too low kills a task after hours.
DEFAULTS: dict[str, Resources] = {
    "check_run": Resources(cpu_request="500m", memory_request="1Gi"),
    "prepare_data": Resources(cpu_request="1", memory_request="4Gi"),
    "embed_text": Resources(cpu_request="2", memory_request="8Gi"),
    "embed_image": Resources(cpu_request="2", memory_request="8Gi"),
    "embed_histories": Resources(cpu_request="1", memory_request="4Gi"),
    "pseudo_label": Resources(cpu_request="1", memory_request="4Gi"),
    "quantize": Resources(cpu_request="2", memory_request="8Gi"),
    "resolve_collisions": Resources(cpu_request="1", memory_request="4Gi"),
    "train": Resources(cpu_request="2", memory_request="8Gi"),
    "evaluate": Resources(cpu_request="2", memory_request="8Gi"),
    "recommend": Resources(cpu_request="2", memory_request="8Gi"),
    "encode_items": Resources(cpu_request="1", memory_request="4Gi"),
}


def read_resources(path: Path | None) -> dict[str, Resources]:
    """Return the resources of every stage: the defaults, overridden by a file.

    The file is YAML: STAGE: {cpu_request: ..., memory_request: ..., cpu_limit: ..., memory_limit:
    ...}. Omitted values keep their defaults; an empty text removes a value.

    Raises:
        UserError: if the file does not exist, a stage or name is unknown, or a value is not a
            quantity. One message lists all problems.
    """
    result = dict(DEFAULTS)
    if path is None:
        return result
    problems = list[str]()
    for stage, values in read_yaml(path, "--resources").items():
        if stage not in result:
            problems.append(f"no stage {stage}.{_nearest(stage, list(result))}")
        elif not isinstance(values, dict):
            problems.append(f"{stage}: write {{cpu_request: ..., memory_request: ...}}.")
        else:
            problems += _problems(stage, values)
            known = {name: str(value) for name, value in values.items() if name in _NAMES}
            result[stage] = replace(result[stage], **known)
    if problems:
        raise UserError(f"--resources {path}: " + "\n  ".join(problems))
    return result


_NAMES = [field.name for field in fields(Resources)]


def _problems(stage: str, values: Mapping[str, Any]) -> list[str]:
    problems = list[str]()
    for name, value in values.items():
        if name not in _NAMES:
            problems.append(f"{stage}: unknown {name}.{_nearest(str(name), _NAMES)}")
            continue
        form, example = (CPU, "500m or 2") if name.startswith("cpu") else (MEMORY, "4Gi")
        if value != "" and not form.fullmatch(str(value)):
            problems.append(f"{stage}: {name}={value!r} is no quantity. Write {example}.")
    return problems


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    return f" Did you mean {near[0]}?" if near else f" Known: {', '.join(names)}."
