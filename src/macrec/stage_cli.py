"""The command line of a stage, by hand (flags) and under Kubeflow Pipelines (executor input)."""

import argparse
import json
import logging
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from macrec.artifact import (
    Artifact,
    FolderOutput,
    Json,
    Output,
    ParameterOutput,
    Source,
    write_atomically,
)
from macrec.errors import EXIT_PREEMPTED, EXIT_TRY_AGAIN, EXIT_USER_ERROR, TryAgain, UserError
from macrec.fingerprint import Stage, stage_name
from macrec.parameters import Parameter, build, fields
from macrec.processes import leave, processes
from macrec.progress import log
from macrec.stage import Result, execute, input_artifacts, settings, sources
from macrec.store import ArtifactStore

METRICS = "metrics"
# Where the KFP launcher mounts an artifact's URI in the container.
KFP_MOUNTS = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/"}
# What every stage accepts besides its own parameters.
COMMON = [
    Parameter("store", str, "", "Artifact store, a local folder or gs://; empty: reuse nothing."),
    Parameter("cache_salt", str, "", "Any text; a new one forces the stage to compute again."),
]
# Also of every stage, but each has its own among the run parameters.
FORCE = Parameter(
    "force",
    str,
    "",
    "Any text; a new one makes this stage compute again, and what follows if its bytes changed.",
)
TASK = "task.json"
"""How a task began and ended, beside its executor output; `macrec status` reads it."""


class Request(NamedTuple):
    """A stage's call, whoever made it."""

    values: dict[str, Any]
    artifacts: dict[str, Path]
    outputs: dict[str, str]
    executor_output: Path | None


def main(stage: Stage, argv: list[str]) -> None:
    """Serves one call and ends the process with its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_PREEMPTED))
    code = guarded(lambda: _noted(stage, parse_request(stage, argv)))
    leave()
    sys.exit(code)


def _noted(stage: Stage, request: Request) -> None:
    """Serves the call; under KFP how it began and ended is written down."""
    if request.executor_output is None or not processes().first:
        run_request(stage, request)
        return
    path = request.executor_output.with_name(TASK)
    path.parent.mkdir(parents=True, exist_ok=True)
    noted: Json = {"stage": stage_name(stage), "started": _now()}
    write_atomically(path, json.dumps(noted).encode())
    ending: Json = {"code": 1, "error": ""}
    try:
        ending = {"code": 0, "reused": run_request(stage, request).reused}
    except UserError as error:
        ending = {"code": EXIT_USER_ERROR, "error": str(error)}
        raise
    except TryAgain as error:
        ending = {"code": EXIT_TRY_AGAIN, "error": str(error)}
        raise
    except SystemExit as ended:
        ending["code"] = ended.code
        raise
    except BaseException as error:
        ending["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        write_atomically(path, json.dumps({**noted, "ended": _now(), **ending}).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def guarded(work: Callable[[], object]) -> int:
    """Runs the work; an error that has an exit code of its own gives it, without a traceback."""
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
    """Reads a call from flags or, after `--executor-input`, from KFP's JSON."""
    options = parser(stage).parse_args(argv)
    if options.executor_input:
        return _from_executor_input(stage, json.loads(options.executor_input))
    given = {name: value for name, value in vars(options).items() if value is not None}
    artifacts = {p.name: Path(given.pop(p.name)) for p in input_artifacts(stage) if p.name in given}
    absent = [p.name for p in input_artifacts(stage) if p.name not in artifacts]
    if absent or "out" not in given:
        flags = ", ".join(
            f"--{n.replace('_', '-')}" for n in [*absent, *["out"][: "out" not in given]]
        )
        raise UserError(f"{stage_name(stage)}: give {flags}.")
    out = given.pop("out")
    outputs = {p.name: f"{out}/{p.name}" for p in fields(stage.Outputs)}
    given.pop("executor_input", None)
    return Request(given, artifacts, outputs, None)


def parser(stage: Stage) -> argparse.ArgumentParser:
    """The flags of a stage: its artifacts, sources, settings and the common ones."""
    name = stage_name(stage)
    result = argparse.ArgumentParser(prog=f"macrec stage {name}", description=stage.__doc__)
    result.add_argument("--executor-input", help="the call as KFP v2 states it, instead of flags")
    result.add_argument("--out", help="folder for the outputs, one sub-folder each")
    for parameter in input_artifacts(stage):
        add_flag(result, parameter, "artifact folder: ")
    for parameter in sources(stage):
        add_flag(result, parameter, "path or gs://: ")
        snapshot = Parameter(f"{parameter.name}_snapshot", str, "", "its digest, if known")
        add_flag(result, snapshot)
    for parameter in [*settings(stage), *COMMON, FORCE]:
        add_flag(result, parameter)
    return result


def add_flag(to: argparse.ArgumentParser, parameter: Parameter, prefix: str = "") -> None:
    """A flag for the parameter, with its doc as the help text."""
    flag = "--" + parameter.name.replace("_", "-")
    text = prefix + parameter.doc
    if isinstance(parameter.default, str | int | float | bool | tuple) and not prefix:
        text += f" (default: {parameter.default})"
    to.add_argument(flag, help=text.replace("%", "%%"), choices=parameter.choices or None)


def _from_executor_input(stage: Stage, call: Json) -> Request:
    values = dict(call["inputs"].get("parameterValues", {}))
    artifacts = {
        name: Path(local_path(listed["artifacts"][0]["uri"]))
        for name, listed in call["inputs"].get("artifacts", {}).items()
    }
    declared = call["outputs"].get("artifacts", {})
    outputs = {name: listed["artifacts"][0]["uri"] for name, listed in declared.items()}
    for name, parameter in call["outputs"].get("parameters", {}).items():
        outputs[name] = parameter["outputFile"]
    return Request(values, artifacts, outputs, Path(call["outputs"]["outputFile"]))


def local_path(uri: str) -> str:
    """The path in the container at which the KFP launcher provides a URI."""
    for prefix, mount in KFP_MOUNTS.items():
        if uri.startswith(prefix):
            return mount + uri.removeprefix(prefix)
    return uri


def source(uri: str, snapshot: str = "", cache: Path | None = None) -> Source | None:
    """The Source of a URI, None for an empty one; `hub:NAME/MODEL@REVISION` is a model hub's."""
    if not uri:
        return None
    hub = uri.startswith("hub:")
    return Source(uri.removeprefix("hub:"), snapshot=snapshot, cache=cache, hub=hub)


def run_request(stage: Stage, request: Request) -> Result:
    """Builds the stage's arguments, executes it and writes KFP's executor output."""
    values = request.values
    store, salt, force = (values.get(name, "") for name in ("store", "cache_salt", "force"))
    with tempfile.TemporaryDirectory(prefix="macrec-") as cache:
        inputs: dict[str, Any] = {n: Artifact.open(path) for n, path in request.artifacts.items()}
        for parameter in sources(stage):
            snapshot = values.get(f"{parameter.name}_snapshot", "")
            inputs[parameter.name] = source(values.get(parameter.name, ""), snapshot, Path(cache))
        outputs = {
            p.name: p.kind(Path(local_path(request.outputs[p.name]))) for p in fields(stage.Outputs)
        }
        result = execute(
            stage,
            build(stage.Config, values),
            stage.Inputs(**inputs),
            stage.Outputs(**outputs),
            build(stage.Execution, values),
            store=ArtifactStore(store) if store else None,
            salt=f"{salt}\0{force}" if force else salt,
        )
    if request.executor_output and processes().first:
        _write_executor_output(request.executor_output, request.outputs, outputs, result)
    return result


def _write_executor_output(
    path: Path, uris: Mapping[str, str], outputs: Mapping[str, Output], result: Result
) -> None:
    artifacts: dict[str, Any] = {}
    for name, output in outputs.items():
        if isinstance(output, ParameterOutput):
            continue
        metadata: Json = {"fingerprint": result.fingerprint, "reused": result.reused}
        if isinstance(output, FolderOutput):
            artifact = Artifact.open(output.path)
            metadata |= {"digest": artifact.digest, "rows": artifact.rows, **artifact.metadata}
        artifacts[name] = {"artifacts": [{"name": name, "uri": uris[name], "metadata": metadata}]}
    metrics = {"name": METRICS, "uri": uris.get(METRICS, ""), "metadata": result.metrics}
    artifacts[METRICS] = {"artifacts": [metrics]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"artifacts": artifacts}, allow_nan=False).encode())
