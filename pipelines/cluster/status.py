"""`macrec status`: shows the progress of a run by stage, locally or on a cluster."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.cluster import client
from pipelines.cluster.client import Backend, Connection
from pipelines.dag.compiled_dag import Dag, task_name
from pipelines.local import run_record
from pipelines.local.pipeline_runner import KILLED, PIPELINE_YAML

WAITING = "waiting"
NOT_RUN = "not run"
RUNNING = "running"
SUCCEEDED = "succeeded"
COMPUTED = "computed"
REUSED = "reused"
FINISHED = (SUCCEEDED, COMPUTED, REUSED)
"""States of a stage that ended successfully. A cluster may not report whether it was computed."""
FAILED = "failed"
UNFINISHED = "unfinished"
ERROR_LENGTH = 300
# What to do about the exit code of a stage.
ADVICE = {
    2: "The input or a setting is wrong, and the message says which; a retry does not help.",
    75: "Storage or network did not answer: run it again.",
    143: "It was preempted; it continues from its last checkpoint.",
    **dict.fromkeys(
        KILLED,
        "It was killed (signal 9), most often out of memory: give the stage more, or a smaller "
        "batch size.",
    ),
    1: "A fault of the program or the machine; its traceback is in the log.",
}
# KFP's states that have another name here; the others are only converted to lower case.
_STATES = {
    "RUNTIME_STATE_UNSPECIFIED": WAITING,
    "PENDING": WAITING,
    "OMITTED": WAITING,
    "ERROR": FAILED,
}
_ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED", "ERROR")


class StageStatus(NamedTuple):
    """The status of one stage, a line of the table."""

    stage: str
    state: str
    seconds: float | None = None
    reused: bool | None = None
    """None if the stage has not ended or the backend does not report it."""
    error: str = ""
    advice: str = ""


class RunStatus(NamedTuple):
    """The status of a run and of its stages, in DAG order."""

    run: str
    name: str
    state: str
    started: str
    ended: str
    """Empty while the run is active."""
    stages: list[StageStatus]
    notes: list[str]


def run_status(run: str, connection: Connection) -> RunStatus:
    """Return the status of a run.

    Args:
        run: output folder of a local run, or a KFP run id.
        connection: the backend of a KFP run.

    Raises:
        UserError: if there is no such run, or the backend refuses.
        TryAgain: if the backend does not respond.
    """
    if run_record.is_output_folder(run):
        return read_local_status(Path(run))
    return read_backend_status(client.connect(connection, run), run)


def read_local_status(out: Path) -> RunStatus:
    """Return the status of a local run."""
    record = run_record.read(out)
    dag = run_record.current_dag(record)
    tasks, is_running = record.tasks(dag), run_record.is_locked(out)
    stages = [
        _task_status(tasks[name], is_running, record.code)
        if name in tasks
        else StageStatus(name, WAITING)
        for name in dag.stages
    ]
    if is_running:
        state, notes = RUNNING, list[str]()
    elif all(s.state in FINISHED for s in stages):
        state, notes = SUCCEEDED, []
    else:
        failed = any(s.state == FAILED for s in stages)
        state = FAILED if failed else UNFINISHED
        remedy = "mend the cause, then" if failed else "it goes on with"
        notes = [f"{remedy} `macrec rerun {out}`; what is finished is reused"]
    ends = [t.content["ended"] for t in tasks.values() if "ended" in t.content]
    ended = "" if is_running else max([record.ended or "", *ends])
    name = f"local {record.pipeline}"
    return _mark_not_run(RunStatus(str(out), name, state, record.started, ended, stages, notes))


def _mark_not_run(found: RunStatus) -> RunStatus:
    """Change the state of waiting stages to `not run` if the run has ended."""
    if not found.ended:
        return found
    stages = [s._replace(state=NOT_RUN) if s.state == WAITING else s for s in found.stages]
    return found._replace(stages=stages)


def _task_status(task: run_record.Task, is_running: bool, run_code: int | None) -> StageStatus:
    content = task.content
    started = datetime.fromisoformat(content["started"])
    if "ended" not in content and is_running:
        seconds = (datetime.now(UTC) - started).total_seconds()
        return StageStatus(task.stage, RUNNING, seconds)
    if "ended" not in content:  # the process was killed before it could record its end
        code = run_code if run_code not in (None, 0, 1) else -9
        return StageStatus(task.stage, FAILED, None, None, "ended without a word", _advice(code))
    seconds = (datetime.fromisoformat(content["ended"]) - started).total_seconds()
    if task.finished:
        reused = bool(content["reused"])
        return StageStatus(task.stage, REUSED if reused else COMPUTED, seconds, reused)
    error = _first_line(content.get("error", ""))
    message = f"exit code {content['code']}" + (f": {error}" if error else "")
    return StageStatus(task.stage, FAILED, seconds, None, message, _advice(content["code"]))


def read_backend_status(backend: Backend, run_id: str) -> RunStatus:
    """Return the status of a run on a cluster."""
    with backend.convert_errors(f"run {run_id}"):
        run = backend.client.get_run(run_id)
    details = (run.run_details.task_details if run.run_details else None) or []
    stages = _stages(details, _recommender(), backend.namespace)
    state = _STATES.get(run.state, str(run.state or WAITING).lower())
    notes = [f"UI: {backend.link(run_id)}"]
    message = _errors(run)
    if message:
        notes.append(f"error: {message}")
    if state == FAILED:
        notes.append(f"mend the cause, then `macrec rerun {run_id}`")
    ended = run.state in _ENDED
    end = (_time(run.finished_at) or "-") if ended else ""
    began, name = _time(run.created_at), str(run.display_name)
    return _mark_not_run(RunStatus(run_id, name, state, began, end, stages, notes))


@lru_cache(maxsize=1)
def _recommender() -> Dag:
    return Dag(PIPELINE_YAML.read_text())


def _stages(details: list[Any], dag: Dag, namespace: str) -> list[StageStatus]:
    """Return the status of every stage from the nodes of a run.

    The backend lists the nodes of the Argo workflow. The node of a task `train` is `train`; its
    children are the executor and the executor's attempts. If the executor was skipped, the result
    came from KFP's cache. A child refers to a node name and a node has a pod name; both end in the
    same number.
    """
    by_number = {_number(d.pod_name): d for d in details if d.pod_name}
    by_name = {str(d.display_name): d for d in details}
    tasks = {s: by_name[task_name(s)] for s in dag.stages if task_name(s) in by_name}
    unknown = [StageStatus(s, WAITING) for s in dag.stages if s not in tasks]
    known = [_node_status(s, d, by_number, namespace) for s, d in tasks.items()]
    return sorted([*known, *unknown], key=lambda found: dag.stages.index(found.stage))


def _node_status(
    stage: str, node: Any, by_number: Mapping[str, Any], namespace: str
) -> StageStatus:
    below = list(_below(node, by_number))
    leaves = [n for n in below if str(n.display_name).startswith("executor")]
    state = _STATES.get(node.state, str(node.state or WAITING).lower())
    seconds = None
    if node.start_time and node.end_time and node.end_time > node.start_time:
        seconds = (node.end_time - node.start_time).total_seconds()
    if state == SUCCEEDED and leaves and all(n.state == "SKIPPED" for n in leaves):
        return StageStatus(stage, REUSED, seconds, True)
    if state != FAILED:
        return StageStatus(stage, state, seconds)
    error = _errors(node) or next((e for n in below if (e := _errors(n))), "")
    code = re.search(r"exit code (-?\d+)", error)
    pods = [n.pod_name for n in leaves if n.state in ("FAILED", "ERROR")] or [node.pod_name]
    where = f" -n {namespace}" if namespace else ""
    advice = [_advice(int(code[1]))] if code else []
    advice.append(f"Its log: kubectl logs{where} {pods[-1]} -c main, or the UI.")
    return StageStatus(stage, FAILED, seconds, None, _first_line(error), " ".join(advice))


def _below(node: Any, by_number: Mapping[str, Any]) -> Iterator[Any]:
    for child in node.child_tasks or []:
        found = by_number.get(_number(child.pod_name or ""))
        # In the workflow graph the next task is a child too. Only executors belong to this task.
        if found is not None and str(found.display_name).startswith("executor"):
            yield found
            yield from _below(found, by_number)


def _number(pod: str) -> str:
    return pod.rpartition("-")[2]


def _errors(found: Any) -> str:
    """Return the last error message that the backend has for a run or node, else an empty text."""
    messages = [found.error.message] if found.error else []
    messages += [s.error.message for s in found.state_history or [] if s.error]
    return next((_first_line(m) for m in reversed(messages) if m), "")


def _time(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment and moment.year > 1970 else ""


def _advice(code: int) -> str:
    return ADVICE.get(code, "See its log.")


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= ERROR_LENGTH else line[: ERROR_LENGTH - 1] + "…"


def lines(found: RunStatus) -> Iterator[str]:
    """Yield the lines of the table."""
    times = f"began {found.started}" + (f", ended {found.ended}" if found.ended else "")
    yield f"{found.run} ({found.name}): {found.state}; {times}"
    for stage in found.stages:
        seconds = f"{stage.seconds:8.1f} s" if stage.seconds is not None else " " * 10
        yield f"{stage.stage:<20}{seconds}  {stage.state}"
        for text in filter(None, (stage.error, stage.advice)):
            yield f"    {text}"
    yield from found.notes


def as_json(found: RunStatus) -> str:
    """Return the status as JSON, for programs."""
    content = {**found._asdict(), "stages": [s._asdict() for s in found.stages]}
    return json.dumps(content, indent=1)
