"""A compiled pipeline as data: the order of its stages and the tasks that one stage depends on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from components.stages import STAGES
from macrec.core.errors import UserError

# libyaml's loader is ten times faster, but PyYAML may be built without it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FROM_TASK = ("taskOutputArtifact", "taskOutputParameter")


class Dag:
    """The tasks of a compiled pipeline.

    Args:
        text: content of the compiled file.
    """

    def __init__(self, text: str) -> None:
        self.documents: list[dict[str, Any]] = list(yaml.load_all(text, _LOADER))
        spec = self.documents[0]
        self.name = str(spec["pipelineInfo"]["name"])
        self.parameters: dict[str, Any] = spec["root"]["inputDefinitions"]["parameters"]
        self.tasks: dict[str, Any] = spec["root"]["dag"]["tasks"]

    @property
    def stages(self) -> list[str]:
        """Return the stages in DAG order."""
        return [s.name for s in STAGES if task_name(s.name) in self.tasks]

    def checked(self, stage: str) -> str:
        """Return the name of a stage that can be forced to run again.

        Raises:
            UserError: if this pipeline has no such stage.
        """
        name = stage.replace("-", "_")
        stored = [s.name for s in STAGES if s.reusable and s.name in self.stages]
        if name not in stored:
            raise UserError(f"no stage {stage} to run again. Stages: {', '.join(stored)}.")
        return name

    def from_stage(self, stage: str) -> list[str]:
        """Return the stage and all stages that depend on its outputs, directly or indirectly."""
        found = {task_name(stage)}
        while True:
            more = {t for t in self.tasks if found & set(self._needed(t))} - found
            if not more:
                return [s for s in self.stages if task_name(s) in found]
            found |= more

    def inputs(self, stage: str) -> dict[str, Any]:
        """Return the inputs of a stage's task, KFP's `artifacts` and `parameters`."""
        return self.tasks[task_name(stage)].get("inputs", {})

    def outputs(self, stage: str) -> dict[str, Any]:
        """Return the outputs of a stage's task, KFP's `artifacts` and `parameters`."""
        task = self.tasks[task_name(stage)]
        component = self.documents[0]["components"][task["componentRef"]["name"]]
        return component["outputDefinitions"]

    def _needed(self, task: str) -> Iterator[str]:
        inputs = self.tasks[task].get("inputs", {})
        for given in [
            *inputs.get("artifacts", {}).values(),
            *inputs.get("parameters", {}).values(),
        ]:
            yield from (given[kind]["producerTask"] for kind in _FROM_TASK if kind in given)

    def cut(self, stage: str) -> str:
        """Return the text of a pipeline that has only the stage and the tasks it depends on."""
        kept, pending = set[str](), [task_name(stage)]
        while pending:
            task = pending.pop()
            kept.add(task)
            pending += [t for t in self._needed(task) if t not in kept]
        spec = dict(self.documents[0])
        components = {self.tasks[task]["componentRef"]["name"] for task in kept}
        spec["components"] = {n: c for n, c in spec["components"].items() if n in components}
        executors = {c["executorLabel"] for c in spec["components"].values()}
        spec["deploymentSpec"] = _with_executors(spec["deploymentSpec"], executors)
        tasks = {name: task for name, task in self.tasks.items() if name in kept}
        spec["root"] = {**spec["root"], "dag": {**spec["root"]["dag"], "tasks": tasks}}
        documents = [spec]
        for platform in self.documents[1:]:
            kubernetes = platform["platforms"]["kubernetes"]
            kubernetes = {
                **kubernetes,
                "deploymentSpec": _with_executors(kubernetes["deploymentSpec"], executors),
            }
            documents.append({"platforms": {"kubernetes": kubernetes}})
        return "---\n".join(yaml.safe_dump(d, sort_keys=True, width=100) for d in documents)


def _with_executors(deployment: dict[str, Any], names: set[str]) -> dict[str, Any]:
    executors = {n: e for n, e in deployment["executors"].items() if n in names}
    return {**deployment, "executors": executors}


def task_name(stage: str) -> str:
    """Return the name of a stage's task in KFP."""
    return stage.replace("_", "-")


def read_dag(path: Path) -> Dag:
    """Read a compiled pipeline from its file.

    Raises:
        UserError: if the file cannot be read or is not a compiled pipeline.
    """
    try:
        return Dag(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no compiled pipeline ({error!r}). `macrec compile --out {path}` writes one."
        ) from error
