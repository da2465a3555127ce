"""The contract of a stage: its declaration (`Stage`) and the work that it receives (`Job`).

`components/NAME/spec.py` declares the stage and imports no heavy libraries, because a finished
stage is reused without them. `components/NAME/stage.py` has `run(job) -> Metrics` and is imported
only to compute.
"""

import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from macrec.core.artifact import Artifact, Json, Source
from macrec.core.checkpoint import Checkpoints
from macrec.core.launched import join_processes
from macrec.core.processes import Processes
from macrec.core.settings import Parameter, fields

Metrics = dict[str, float]
SHARD = "shard"
SettingsT = TypeVar("SettingsT")
InputsT = TypeVar("InputsT")
OutputsT = TypeVar("OutputsT")
ExecutionT = TypeVar("ExecutionT")


class Pool(StrEnum):
    """The node pool on which a stage runs."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The declaration of a stage.

    Its four classes are frozen dataclasses whose fields have docstrings. Settings and Execution are
    made by `macrec.core.settings.settings_class`.
    """

    name: str
    """Name of the stage and of its folder below components/."""
    summary: str
    """One line that states what the stage does."""
    pool: Pool
    """Node pool on which its task runs."""
    settings: type
    """Class of the settings that change the result; they are part of the fingerprint."""
    execution: type
    """Class of the settings that change only the speed."""
    inputs: type
    """Class of the artifacts and external data that the stage reads."""
    outputs: type
    """Class of the outputs that the stage writes."""
    everyday: tuple[str, ...] = ()
    """Names of the settings that many users change. `macrec settings` lists them first and calls
    the others expert settings."""
    distributed: bool = False
    """Whether torchrun may start the stage in several processes. All of them run it, but only
    process 0 reads the store, commits and returns metrics."""
    reusable: bool = True
    """Whether the result is kept in the artifact store and reused under the same fingerprint."""
    resumable: bool = False
    """Whether the stage keeps checkpoints, in a folder of the store that is named by the
    fingerprint. The folder is deleted when the result is in the store."""
    cached: bool = False
    """Whether the stage keeps single results of earlier runs, in a folder of the store that all
    fingerprints share (`macrec.data.embedding_cache`)."""
    sharded: bool = False
    """Whether several tasks may share the work. The pipeline gives each its part as `shard`."""
    separate_settings: bool = False
    """Whether each setting is a parameter of the KFP component. Other stages receive all their
    settings as one JSON parameter."""
    used_inputs: Callable[[Any, Any], Any] = lambda settings, inputs: inputs
    """(settings, inputs) -> the inputs that are read under these settings. The others are None and
    are not part of the fingerprint."""
    unused_imports: Callable[[Any], Collection[tuple[str, str]]] = lambda settings: ()
    """(settings) -> pairs of an importing and an imported module. The imported code does not change
    the result under these settings (`macrec.core.fingerprint`)."""

    @property
    def package(self) -> str:
        """Return the name of the package with the stage's code."""
        return f"components.{self.name}"

    @property
    def artifacts(self) -> list[Parameter]:
        """Return the artifacts that the stage reads."""
        return [f for f in fields(self.inputs) if f.kind is Artifact]

    @property
    def sources(self) -> list[Parameter]:
        """Return the external data that the stage reads."""
        return [f for f in fields(self.inputs) if f.kind is Source]

    @property
    def parameters(self) -> list[Parameter]:
        """Return what a user may set: the fields of the settings, then those of the execution."""
        return [p for p in self._all_parameters if not (self.sharded and p.name == SHARD)]

    @property
    def _all_parameters(self) -> list[Parameter]:
        return [*fields(self.settings), *fields(self.execution)]

    def run(self, job: "Job[Any, Any, Any, Any]") -> Metrics:
        """Run a job and return its metrics; this imports the stage's code."""
        return importlib.import_module(f"{self.package}.stage").run(job)


@dataclass(frozen=True, kw_only=True)
class Job(Generic[SettingsT, InputsT, OutputsT, ExecutionT]):
    """The work that a stage receives."""

    settings: SettingsT
    inputs: InputsT
    outputs: OutputsT
    execution: ExecutionT
    checkpoint_uri: str = ""
    """Folder for the checkpoints of a resumable stage; empty without a store."""
    cache_uri: str = ""
    """Folder for the single results of a cached stage; empty without a store."""
    made_from: Json | None = None
    """Provenance of the result; a checkpoint with a different provenance is rejected."""

    @property
    def processes(self) -> Processes:
        """Return the processes that compute this job together."""
        return join_processes()

    def checkpoints(self, every_seconds: float) -> Checkpoints:
        """Return the checkpoints of this job, saved at most once per `every_seconds`."""
        return Checkpoints(self.checkpoint_uri, every_seconds, made_for=self.made_from)
