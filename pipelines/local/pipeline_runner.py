"""Runs pipeline.yaml locally with kfp.local; each task is a process or a container.

kfp.local's SubprocessRunner refuses container components. `_StageTask` replaces its task handler,
whose class kfp.local looks up when a task starts. It runs the container's command with this
interpreter, or in a container (`pipelines.local.containers`). kfp.local still decides the order of
tasks and passes data between them.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from macrec.core import ui_facts
from macrec.core.errors import EXIT_TRY_AGAIN

PIPELINE_YAML = Path(__file__).parent.parent.parent / "pipeline.yaml"
PROGRESS_SECONDS = "10"
KILLED = (-9, 137)
"""Exit codes after SIGKILL, of a process and of a container."""

Launch = Callable[[Sequence[str], Mapping[str, str]], int]
"""Run a stage's command to its end with extra environment variables; return its exit code."""


class StageRun(NamedTuple):
    """One task of a run that ended successfully."""

    stage: str
    seconds: float
    reused: bool
    metrics: dict[str, float]
    folder: Path


class StageFailed(Exception):
    """Raised when a task ends with an exit code that a retry would not fix."""

    def __init__(self, stage: str, code: int) -> None:
        how = f"failed with exit code {code}"
        if code in KILLED:
            how = "was killed (signal 9): most often out of memory"
        super().__init__(f"{stage} {how}")
        self.stage, self.code = stage, code


@dataclass
class LocalRun:
    """The tasks of a run that have ended successfully so far."""

    stages: list[StageRun] = field(default_factory=list[StageRun])

    def stage(self, name: str) -> StageRun:
        """Return the run of one stage."""
        return next(s for s in self.stages if s.stage == name)


def in_process(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a stage's command with this interpreter; its log goes to this terminal."""
    with contextlib.redirect_stdout(sys.stderr):
        return subprocess.run(
            [sys.executable, *command[1:]], env={**os.environ, **environment}, check=False
        ).returncode


def run_pipeline(
    arguments: Mapping[str, Any],
    root: Path,
    yaml: Path = PIPELINE_YAML,
    launch: Launch = in_process,
) -> LocalRun:
    """Run a compiled pipeline.

    Args:
        arguments: values by field of the run form; the others take their defaults.
        root: folder for the artifacts, with one subfolder per run.
        yaml: file of the compiled pipeline.
        launch: function that runs a stage's command.

    Raises:
        StageFailed: if a stage fails; its message is on the terminal.
    """
    from kfp import components, local

    record = LocalRun()
    with _stages_run_by(launch, record), _quiet():
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
        pipeline = components.load_component_from_file(str(yaml))
        pipeline(**arguments)
    return record


@contextlib.contextmanager
def _stages_run_by(launch: Launch, record: LocalRun) -> Iterator[None]:
    from kfp.local import subprocess_task_handler as module

    class Handler(_StageTask):
        run_record = record
        run_command = staticmethod(launch)

    original = module.SubprocessTaskHandler
    module.SubprocessTaskHandler = Handler  # type: ignore[misc]
    try:
        yield
    finally:
        module.SubprocessTaskHandler = original


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence kfp.local's own output within the block; the logs of the stages are not affected."""
    previous = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with (
            open(os.devnull, "w") as devnull,
            contextlib.redirect_stdout(devnull),
            warnings.catch_warnings(),
        ):
            # kfp.local warns about resources and node pools, which have no meaning locally.
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


class _StageTask:
    """A kfp.local task handler that runs the command of a container component."""

    run_record: LocalRun
    run_command: Launch

    def __init__(
        self,
        image: str,
        full_command: list[str],
        pipeline_root: str,
        runner: Any,
        env_vars: dict[str, str] | None = None,
    ) -> None:
        self.command = full_command
        self.stage = full_command[3]
        self.call = json.loads(full_command[full_command.index("--executor-input") + 1])
        progress = os.environ.get("MACREC_PROGRESS_SECONDS", PROGRESS_SECONDS)
        self.env = {"MACREC_PROGRESS_SECONDS": progress, **(env_vars or {})}

    def run(self) -> Any:
        """Run the stage to its end; its log goes to this terminal.

        Raises:
            StageFailed: if the stage ends with an exit code that a retry would not fix.
        """
        from kfp.local import status

        started = time.monotonic()
        code = self.run_command(self.command, self.env)
        if code == EXIT_TRY_AGAIN:
            return status.Status.FAILURE  # kfp.local retries it by the task's retry policy
        if code:
            raise StageFailed(self.stage, code)
        self.run_record.stages.append(self._read_outcome(time.monotonic() - started))
        return status.Status.SUCCESS

    def _read_outcome(self, seconds: float) -> StageRun:
        output_file = Path(self.call["outputs"]["outputFile"])
        artifacts = json.loads(output_file.read_bytes())["artifacts"]
        described = {name: a["artifacts"][0]["metadata"] for name, a in artifacts.items()}
        metrics = ui_facts.from_ui_names(described.pop("metrics"))
        reused = bool(described) and all(m["reused"] for m in described.values())
        return StageRun(self.stage, seconds, reused, metrics, output_file.parent)
