"""`macrec rerun OUT`: reruns a local run, or one of its stages."""

import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from components.run_form import FORMS, check_form, flatten, form_arguments
from macrec.core.errors import UserError, check
from macrec.core.progress import log
from macrec.core.stage_command import SETTINGS, open_source
from pipelines.dag.compiled_dag import Dag, task_name
from pipelines.local import containers, run_record
from pipelines.local.encode_new_items import encode_items
from pipelines.local.pipeline_runner import PROGRESS_SECONDS, in_process
from pipelines.local.rerun_choice import Choice, Given, force_settings
from pipelines.local.run import absolute_sources, run
from pipelines.local.run_record import Record, Task


def rerun_local(
    out: Path, chosen: Choice, given: Given, in_containers: containers.Options | None = None
) -> None:
    """Run a local run again with its own arguments, and reuse finished stages from the store.

    The earlier run may have used processes or containers; both produce the same bytes. If a stage
    fails, the process ends with the stage's exit code.

    Raises:
        UserError: if no run was started there, the run is still active, or there is no such stage.
    """
    record = run_record.read(out)
    check(
        not run_record.is_locked(out),
        f"{out}: this run is still running. Wait until it ends (`macrec status {out}`).",
    )
    dag = run_record.current_dag(record)
    stage = dag.checked(chosen.stage) if chosen.mode else ""
    finished = stage in (found := record.tasks(dag)) and found[stage].finished
    earlier = {**flatten(record.arguments), **force_settings(dag, chosen, finished)}
    values = absolute_sources(given(earlier, FORMS[record.pipeline]))
    if chosen.mode == "only":
        run_one(record, dag, stage, values, in_containers)
    elif record.pipeline == "encode":
        encode_items(values, out, in_containers)
    else:
        run(values, out, in_containers)


def run_one(
    record: Record,
    dag: Dag,
    stage: str,
    values: Mapping[str, Any],
    in_containers: containers.Options | None = None,
) -> None:
    """Run one stage on the finished artifacts of a run, without changing the results in OUT.

    If the stage fails, the process ends with its exit code.

    Raises:
        UserError: if a stage whose artifacts are needed has not finished, or the data have changed.
    """
    name = f"{dag.name}-{datetime.now():%Y-%m-%d-%H-%M-%S-%f}"
    folder = record.out.resolve() / run_record.RUNS / name / task_name(stage)
    settled = {"run_store": str((record.out / "store").resolve()), **values}
    call = _call(record, dag, stage, settled, folder)
    launch = in_process
    if in_containers:
        launch = containers.of_run(in_containers, settled, record.out)
    folder.mkdir(parents=True)
    with run_record.lock_folder(record.out):
        arguments = run_record.without_own_store(record.out, form_arguments(settled))
        run_record.write(record._replace(arguments=arguments, only=[*record.only, name]))
        progress = os.environ.get("MACREC_PROGRESS_SECONDS", PROGRESS_SECONDS)
        command = ["python", "-m", "components", stage, "--executor-input", json.dumps(call)]
        code = launch(command, {"MACREC_PROGRESS_SECONDS": progress})
    if code:
        print(f"\n{stage} failed with exit code {code}", file=sys.stderr)
        sys.exit(code)
    rest = f"the results in {record.out} are as before"
    log.info("%s is finished; %s: `macrec rerun %s` continues the run", stage, rest, record.out)
    print(f"{stage}: {folder}")


def _call(
    record: Record, dag: Dag, stage: str, values: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Return the stage's ExecutorInput, as KFP would pass it, from the folders of the run."""
    tasks, inputs, outputs = record.tasks(dag), dag.inputs(stage), dag.outputs(stage)
    arguments = form_arguments(values)
    settings = check_form(arguments, FORMS[record.pipeline])[stage]
    given: dict[str, Any] = {}
    for name, origin in inputs.get("parameters", {}).items():
        if "componentInputParameter" in origin:
            key = origin["componentInputParameter"]
            given[name] = arguments.get(key, dag.parameters[key].get("defaultValue"))
        elif name == SETTINGS:
            given[name] = settings  # the first task of the run may have written other ones
        elif "taskOutputParameter" in origin:
            made = origin["taskOutputParameter"]
            path = _finished_folder(tasks, made["producerTask"], stage) / made["outputParameterKey"]
            given[name] = path.read_text()
        else:
            given[name] = origin["runtimeValue"]["constant"]
    _check_unchanged(stage, given)
    artifacts: dict[str, Any] = {}
    for name, origin in inputs.get("artifacts", {}).items():
        made = origin["taskOutputArtifact"]
        producer = _finished_folder(tasks, made["producerTask"], stage)
        artifacts[name] = _list_stages(producer / made["outputArtifactKey"])
    return {
        "inputs": {
            "parameterValues": {n: v for n, v in given.items() if v is not None},
            "artifacts": artifacts,
        },
        "outputs": {
            "artifacts": {n: _list_stages(folder / n) for n in outputs.get("artifacts", {})},
            "parameters": {
                n: {"outputFile": str(folder / n)} for n in outputs.get("parameters", {})
            },
            "outputFile": str(folder / "executor_output.json"),
        },
    }


def _check_unchanged(stage: str, given: Mapping[str, Any]) -> None:
    """Check that the external data that the stage reads have not changed since the run's snapshot.

    The stage's result is stored under the digests of that snapshot.

    Raises:
        UserError: if data have changed.
    """
    snapshots = {
        n.removesuffix("_snapshot"): d for n, d in given.items() if n.endswith("_snapshot")
    }
    changed = [
        str(given[name])
        for name, digest in snapshots.items()
        if (found := open_source(str(given.get(name) or ""))) and found.digest != digest
    ]
    check(
        not changed,
        f"{stage}: {', '.join(changed)} changed since the run took its snapshot. Rerun without "
        "--only, which takes a new one.",
    )


def _list_stages(uri: object) -> dict[str, Any]:
    return {"artifacts": [{"uri": str(uri)}]}


def _finished_folder(tasks: Mapping[str, Task], producer: str, stage: str) -> Path:
    """Return the folder of a finished task.

    Raises:
        UserError: if the task has not finished.
    """
    name = producer.replace("-", "_")
    if name in tasks and tasks[name].finished:
        return tasks[name].folder
    raise UserError(
        f"{stage} needs what {name} makes, and {name} has not finished in this run. Rerun without "
        f"--only, or run --only {name} first."
    )
