"""The command line of a stage, for manual use (flags) and Kubeflow Pipelines (executor input)."""

import argparse
import json
import logging
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from macrec.core import ui_facts
from macrec.core.artifact import (
    Artifact,
    FolderOutput,
    Json,
    Output,
    ParameterOutput,
    Source,
    write_atomically,
)
from macrec.core.errors import EXIT_PREEMPTED, EXIT_TRY_AGAIN, EXIT_USER_ERROR, TryAgain, UserError
from macrec.core.executor import Result, execute, restore_finished
from macrec.core.kernels import numeric_kernels
from macrec.core.launched import is_launched, join_processes, leave_processes
from macrec.core.progress import log
from macrec.core.settings import AS_TEXT, Parameter, build, fields, nearest, parse
from macrec.core.stage import SHARD, Stage
from macrec.core.store import ArtifactStore
from macrec.core.task_note import record_task

METRICS = "metrics"
# The KFP launcher mounts artifact URIs at these paths in the container.
KFP_MOUNTS = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/"}
SETTINGS = "settings"
# Every stage whose result is stored accepts these.
COMMON = [
    Parameter(
        "store", str, "", "Artifact store, a local folder or gs://. Empty: nothing is reused."
    ),
    Parameter("cache_salt", str, "", "Any text. A new text recomputes every stage."),
]
# Every stage whose result is stored accepts this among its settings.
FORCE = Parameter(
    "force",
    str,
    "",
    "Any text. A new text recomputes this stage, and the following ones if its result changes.",
)
# Strings, because KFP's driver reads the parameter of a GPU limit as a string. With a number it
# sets no limit at all.
GpuCount = Literal["0", "1", "2", "3", "4", "5", "6", "7", "8", "16"]
PROCESSES = Parameter(
    "processes",
    GpuCount,
    "1",
    "Processes that share the work, each with a GPU. 0 and 1 start no further process.",
    Annotated[GpuCount, AS_TEXT],
)
SHARD_PARAMETER = Parameter(
    SHARD, str, "", "K/N embeds the K-th of N parts. Empty: the stage writes all vectors."
)


class Request(NamedTuple):
    """One call of a stage, made by flags or by KFP."""

    settings: dict[str, Any]
    values: dict[str, Any]
    """The other values: addresses, digests, and those of `common`."""
    artifacts: dict[str, Path]
    outputs: dict[str, str]
    executor_output: Path | None


def main(stage: Stage, argv: list[str]) -> None:
    """Serve one call and exit the process with its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_PREEMPTED))
    code = run_guarded(lambda: serve(stage, argv))
    leave_processes()
    sys.exit(code)


def serve(stage: Stage, argv: list[str]) -> None:
    """Run the call that the arguments describe, in this process or in several that it starts.

    Under KFP the process that KFP started records how the call began and ended.
    """
    request = parse_request(stage, argv)
    count = int(parse(PROCESSES, request.values.get("processes", PROCESSES.default)))
    path = None if is_launched() else request.executor_output
    with record_task(stage.name, path) if path else nullcontext({}) as note:
        if count < 2 or is_launched():
            note["reused"] = run_request(stage, request).reused
            return
        note["reused"] = restore_from_store(stage, request)
        if not note["reused"]:
            from macrec.core.launch import launch  # loads torch; a reused result does not need it

            device = str(request.settings.get("device", "auto"))
            launch("components", [stage.name, *argv], count, device)


def common_parameters(stage: Stage) -> list[Parameter]:
    """Return the parameters that the stage accepts besides its addresses and settings."""
    result = list(COMMON) if stage.reusable else []
    result += [PROCESSES] if stage.distributed else []
    return [*result, *([SHARD_PARAMETER] if stage.sharded else [])]


def read_settings(stage: Stage, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a stage after a check of their names.

    Raises:
        UserError: the stage has no setting with one of the names.
    """
    known = [p.name for p in [*stage.parameters, *([FORCE] if stage.reusable else [])]]
    unknown = [name for name in settings if name not in known]
    if unknown:
        hints = [f"no setting {name}.{nearest(name, known)}" for name in unknown]
        raise UserError(
            f"{stage.name}: {' '.join(hints)} `macrec settings {stage.name}` lists all."
        )
    return dict(settings)


def run_guarded(work: Callable[[], object]) -> int:
    """Run the work and return its exit code.

    An error that determines an exit code is logged without a traceback. Other errors propagate.
    """
    try:
        work()
        return 0
    except UserError as error:
        log.error("error: %s", error)
        return EXIT_USER_ERROR
    except TryAgain as error:
        log.error("try again: %s", error)
        return EXIT_TRY_AGAIN


def parse_request(stage: Stage, argv: list[str]) -> Request:
    """Read a call from flags or, after `--executor-input`, from KFP's JSON.

    Raises:
        UserError: a required flag is missing.
    """
    options = argument_parser(stage).parse_args(argv)
    if options.executor_input:
        return _from_executor_input(stage, json.loads(options.executor_input))
    given = {name: value for name, value in vars(options).items() if value is not None}
    artifacts = {p.name: Path(given.pop(p.name)) for p in stage.artifacts if p.name in given}
    required = [p.name for p in stage.artifacts if p.required]
    absent = [name for name in required if name not in artifacts]
    if absent or "out" not in given:
        flags = ", ".join(
            f"--{n.replace('_', '-')}" for n in [*absent, *["out"][: "out" not in given]]
        )
        raise UserError(f"{stage.name}: give {flags}.")
    out = given.pop("out")
    outputs = {p.name: f"{out}/{p.name}" for p in fields(stage.outputs)}
    settings: dict[str, Any] = {}
    for assignment in given.pop("set"):
        name, value = split_assignment(assignment)
        settings[name] = value
    return Request(read_settings(stage, settings), given, artifacts, outputs, None)


def split_assignment(assignment: str) -> tuple[str, str]:
    """Return the name and the value of NAME=VALUE.

    Raises:
        UserError: there is no equals sign.
    """
    name, equals, value = assignment.partition("=")
    if not equals:
        raise UserError(f"--set {assignment}: write NAME=VALUE.")
    return name.strip(), value


def argument_parser(stage: Stage) -> argparse.ArgumentParser:
    """Return the argument parser of a stage: artifacts, sources, `--set`, and common parameters."""
    name = stage.name
    result = argparse.ArgumentParser(prog=f"macrec stage {name}", description=stage.summary)
    result.add_argument("--executor-input", help="KFP's JSON of the call, instead of flags")
    result.add_argument("--out", help="folder for the outputs, one sub-folder each")
    result.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"a setting; `macrec settings {name}` lists all",
    )
    for parameter in stage.artifacts:
        add_flag(result, parameter, "artifact folder: ")
    for parameter in stage.sources:
        add_flag(result, parameter, "path or gs://: ")
        snapshot = Parameter(f"{parameter.name}_snapshot", str, "", "its digest, if known")
        add_flag(result, snapshot)
    for parameter in common_parameters(stage):
        add_flag(result, parameter)
    return result


def add_flag(to: argparse.ArgumentParser, parameter: Parameter, prefix: str = "") -> None:
    """Add a flag for the parameter, with its doc as the help text."""
    flag = "--" + parameter.name.replace("_", "-")
    text = prefix + parameter.doc
    if isinstance(parameter.default, str | int | float | bool | tuple) and not prefix:
        text += f" (default: {parameter.default})"
    to.add_argument(flag, help=text.replace("%", "%%"), choices=parameter.choices or None)


def _from_executor_input(stage: Stage, call: Json) -> Request:
    values = dict(call["inputs"].get("parameterValues", {}))
    if stage.separate_settings:
        settings = {p.name: values.pop(p.name) for p in stage.parameters if p.name in values}
    else:
        settings = values.pop(SETTINGS, None) or {}
    artifacts = {
        name: Path(local_path(listed["artifacts"][0]["uri"]))
        for name, listed in call["inputs"].get("artifacts", {}).items()
    }
    declared = call["outputs"].get("artifacts", {})
    outputs = {name: listed["artifacts"][0]["uri"] for name, listed in declared.items()}
    for name, parameter in call["outputs"].get("parameters", {}).items():
        outputs[name] = parameter["outputFile"]
    output_file = Path(call["outputs"]["outputFile"])
    return Request(read_settings(stage, settings), values, artifacts, outputs, output_file)


def local_path(uri: str) -> str:
    """Return the path in the container at which the KFP launcher provides a URI."""
    for prefix, mount in KFP_MOUNTS.items():
        if uri.startswith(prefix):
            return mount + uri.removeprefix(prefix)
    return uri


def open_source(uri: str, snapshot: str = "", cache: Path | None = None) -> Source | None:
    """Return the Source of a URI, or None for an empty URI.

    `hub:NAME/MODEL@REVISION` refers to a model hub.
    """
    if not uri:
        return None
    hub = uri.startswith("hub:")
    return Source(uri.removeprefix("hub:"), snapshot=snapshot, cache=cache, hub=hub)


class Call(NamedTuple):
    """The arguments of a stage, built from a request."""

    settings: Any
    inputs: Any
    outputs: Any
    execution: Any
    store: ArtifactStore | None
    salt: str


def _build(stage: Stage, cls: type, settings: Mapping[str, Any]) -> Any:
    """Build a stage's Settings or Execution; an error names the stage."""
    try:
        return build(cls, settings)
    except UserError as error:
        raise UserError(f"{stage.name}: {error}") from error


@contextmanager
def _build_call(stage: Stage, request: Request) -> Iterator[Call]:
    """Build the stage's arguments; remote data stays in a temporary folder until the block ends."""
    values, settings = request.values, dict(request.settings)
    store, salt = values.get("store", ""), values.get("cache_salt", "")
    force = settings.pop("force", "")
    if stage.sharded:
        settings[SHARD] = values.get(SHARD, "")
    with tempfile.TemporaryDirectory(prefix="macrec-") as cache:
        inputs: dict[str, Any] = {n: Artifact.open(path) for n, path in request.artifacts.items()}
        for parameter in stage.sources:
            snapshot = values.get(f"{parameter.name}_snapshot", "")
            inputs[parameter.name] = open_source(
                values.get(parameter.name, ""), snapshot, Path(cache)
            )
        outputs = {
            p.name: p.kind(Path(local_path(request.outputs[p.name]))) for p in fields(stage.outputs)
        }
        yield Call(
            _build(stage, stage.settings, settings),
            stage.inputs(**inputs),
            stage.outputs(**outputs),
            _build(stage, stage.execution, settings),
            ArtifactStore(store) if store else None,
            f"{salt}\0{force}" if force else salt,
        )


def run_request(stage: Stage, request: Request) -> Result:
    """Execute the stage and write KFP's executor output."""
    with _build_call(stage, request) as call:
        *arguments, store, salt = call
        result = execute(stage, *arguments, store=store, salt=salt)
    if join_processes().is_first:
        _write_executor_output(stage, request, vars(call.outputs), result)
    return result


def restore_from_store(stage: Stage, request: Request) -> bool:
    """Restore the stage's result from the store if possible, without computing anything.

    Write KFP's executor output in that case. Return whether the store had the result.
    """
    with _build_call(stage, request) as call:
        if call.store is None:
            return False
        result = restore_finished(
            stage, call.settings, call.inputs, call.outputs, call.store, call.salt
        )
    if result:
        _write_executor_output(stage, request, vars(call.outputs), result)
    return result is not None


def _write_executor_output(
    stage: Stage, request: Request, outputs: Mapping[str, Output], result: Result
) -> None:
    path, uris = request.executor_output, request.outputs
    if path is None:
        return
    read_from = {p.name: request.values.get(p.name, "") for p in stage.sources}
    artifacts: dict[str, Any] = {}
    for name, output in outputs.items():
        if isinstance(output, ParameterOutput):
            continue
        metadata: Json = {"fingerprint": result.fingerprint, "reused": result.reused}
        if not result.reused:
            metadata["numeric_kernels"] = numeric_kernels()
        if isinstance(output, FolderOutput):
            metadata |= ui_facts.artifact_metadata(Artifact.open(output.path), read_from)
        artifacts[name] = {"artifacts": [{"name": name, "uri": uris[name], "metadata": metadata}]}
    metrics = {
        "name": METRICS,
        "uri": uris.get(METRICS, ""),
        "metadata": ui_facts.to_ui_names(result.metrics),
    }
    artifacts[METRICS] = {"artifacts": [metrics]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"artifacts": artifacts}, allow_nan=False).encode())
