"""The contract of a stage: what it declares (`Stage`), and what it is given to compute (`Job`).

`components/NAME/spec.py` declares the stage and is light: a finished stage is handed over without
its libraries. `components/NAME/stage.py` has `run(job) -> Metrics` and is loaded to compute.
"""

import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from macrec.core.artifact import Artifact, Json, Source
from macrec.core.checkpoint import Checkpoints
from macrec.core.parameters import Parameter, fields
from macrec.core.processes import Processes, processes

Metrics = dict[str, float]
SettingsT = TypeVar("SettingsT")
InputsT = TypeVar("InputsT")
OutputsT = TypeVar("OutputsT")
ExecutionT = TypeVar("ExecutionT")


class Pool(StrEnum):
    """The node pool of a stage."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage is. The four classes are frozen dataclasses whose fields have docstrings."""

    name: str
    """The folder below components/."""
    summary: str
    """One line: what it does."""
    pool: Pool
    """Where its task runs."""
    settings: type
    """Settings that change the result; part of the fingerprint."""
    execution: type
    """Settings that change the speed alone."""
    inputs: type
    """Artifacts and external data that it reads."""
    outputs: type
    """What it writes."""
    distributed: bool = False
    """torchrun may start it in several processes. All run it; process 0 alone looks into the store,
    commits and has metrics."""
    reusable: bool = True
    """Its result is kept in the artifact store and handed over under the same fingerprint."""
    resumable: bool = False
    """It keeps checkpoints in a folder of the store that belongs to the fingerprint, and is removed
    when the result is in the store."""
    cached: bool = False
    """It keeps single results of earlier runs in a folder of the store, whatever the fingerprint
    (`macrec.data.embedding_cache`)."""
    used_inputs: Callable[[Any, Any], Any] = lambda settings, inputs: inputs
    """(settings, inputs) -> the inputs that are read under these settings; the others are None and
    no part of the fingerprint."""
    unused_imports: Callable[[Any], Collection[tuple[str, str]]] = lambda settings: ()
    """(settings) -> (importing, imported) modules whose code does not change the result under these
    settings (`macrec.core.fingerprint`)."""

    @property
    def package(self) -> str:
        """The package of its code."""
        return f"components.{self.name}"

    @property
    def artifacts(self) -> list[Parameter]:
        """The artifacts that it reads."""
        return [f for f in fields(self.inputs) if f.kind is Artifact]

    @property
    def sources(self) -> list[Parameter]:
        """The external data that it reads."""
        return [f for f in fields(self.inputs) if f.kind is Source]

    @property
    def parameters(self) -> list[Parameter]:
        """The fields of its settings, then those of its execution."""
        return [*fields(self.settings), *fields(self.execution)]

    def run(self, job: "Job[Any, Any, Any, Any]") -> Metrics:
        """Compute a job; this loads the code of the stage."""
        return importlib.import_module(f"{self.package}.stage").run(job)


@dataclass(frozen=True, kw_only=True)
class Job(Generic[SettingsT, InputsT, OutputsT, ExecutionT]):
    """What a stage is given to compute."""

    settings: SettingsT
    inputs: InputsT
    outputs: OutputsT
    execution: ExecutionT
    checkpoint_uri: str = ""
    """Folder for checkpoints, of a resumable stage; empty without a store."""
    cache_uri: str = ""
    """Folder for single results, of a cached stage; empty without a store."""
    made_from: Json | None = None
    """What the result is made from; a checkpoint made from something else is refused."""

    @property
    def processes(self) -> Processes:
        """The processes that compute this job together."""
        return processes()

    def checkpoints(self, every_seconds: float) -> Checkpoints:
        """Return the checkpoints of this job, saved so often at most."""
        return Checkpoints(self.checkpoint_uri, every_seconds, made_for=self.made_from)
