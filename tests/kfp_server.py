"""A Kubeflow Pipelines backend for tests: the v2beta1 REST calls of kfp's client, state in memory.

Answers are made from the models of kfp_server_api, so their fields are those of the real API. What
the backend itself decides is kept to what its sources say: names are unique, a retry needs a failed
run, and deleting a schedule kills its runs.
"""

import contextlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api

PREFIX = "/apis/v2beta1"
STAGES = ["check-run", "prepare-data", "embed-text", "quantize", "train", "evaluate"]


class Refused(Exception):
    """An answer that is no success, with its HTTP status."""

    def __init__(self, status: int, message: str, body: bytes | None = None) -> None:
        self.status = status
        self.body = body or json.dumps({"error": message, "code": 5, "message": message}).encode()


@dataclass
class KfpServer:
    """The state, and what was asked."""

    token: str = ""
    """What the header `authorization` must say; empty: nothing."""
    multi_user: bool = False
    pipelines: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, bytes] = field(default_factory=dict)
    experiments: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, Any] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """METHOD /path of each call."""
    faults: dict[str, Callable[[], Any]] = field(default_factory=dict)
    """METHOD /path (a pattern) -> what is done before the call, for example raising Refused."""
    url: str = ""

    def finish(self, run_id: str, state: str = "SUCCEEDED", **nodes: Any) -> None:
        """Ends a run; `nodes` as of `task_details`."""
        run = self.runs[run_id]
        run.state, run.finished_at = state, _now()
        run.run_details = api.V2beta1RunDetails(task_details=task_details(**nodes))

    def clear(self) -> None:
        """Forgets what was asked."""
        self.requests.clear()

    def asked(self, method: str) -> list[str]:
        """The paths of the calls with a method."""
        return [r.partition(" ")[2] for r in self.requests if r.startswith(method)]


def task_details(
    failed: str = "", cached: tuple[str, ...] = (), running: str = "", message: str = ""
) -> list[Any]:
    """The nodes of a run's workflow as the backend lists them.

    For each task: `NAME-driver`, `NAME` and its executor. A node's pod is named after its
    template, a child after its node; both end in the same number.
    """
    details: list[Any] = []
    for n, name in enumerate(STAGES):
        state = "FAILED" if name == failed else "RUNNING" if name == running else "SUCCEEDED"
        inner = "SKIPPED" if name in cached else state
        error = (
            api.GoogleRpcStatus(code=13, message=message) if message and name == failed else None
        )
        details += [
            _node(f"{name}-driver", f"system-container-driver-{n}1", "SUCCEEDED", f"{n}2"),
            _node(name, f"system-container-executor-{n}2", state, f"{n}3"),
            _node("executor", f"system-container-impl-{n}3", inner, "", error),
        ]
        if name in (failed, running):
            break
    return details


def _node(name: str, pod: str, state: str, child: str, error: Any = None) -> Any:
    children = [api.PipelineTaskDetailChildTask(pod_name=f"macrec-x7k2-{child}")] if child else None
    return api.V2beta1PipelineTaskDetail(
        task_id=str(uuid.uuid4()),
        display_name=name,
        pod_name=f"macrec-x7k2-{pod}",
        state=state,
        error=error,
        start_time=datetime(2026, 1, 5, 3, 0, 0, tzinfo=UTC),
        end_time=datetime(2026, 1, 5, 3, 1, 30, tzinfo=UTC),
        child_tasks=children,
    )


@contextlib.contextmanager
def serving(**given: Any) -> Iterator[KfpServer]:
    """A server on a free port of this machine."""
    state = KfpServer(**given)

    class Handler(_Handler):
        server_state = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_state: KfpServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the tests' output clean."""

    def _serve(self) -> None:
        state, split = self.server_state, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.query = {name: values[0] for name, values in parse_qs(split.query).items()}
        call = f"{self.command} {split.path}"
        state.requests.append(call)
        try:
            for pattern, fault in state.faults.items():
                if re.fullmatch(pattern, call):
                    fault()
            if state.token and self.headers.get("authorization") != f"Bearer {state.token}":
                raise Refused(401, "Unauthenticated: the token could not be verified")
            answer = self._route(call.replace(PREFIX, "", 1), body)
        except Refused as refused:
            self._answer(refused.status, refused.body)
            return
        self._answer(200, json.dumps(api.ApiClient().sanitize_for_serialization(answer)).encode())

    do_GET = do_POST = do_DELETE = _serve

    def _answer(self, status: int, body: bytes) -> None:
        kind = "text/html" if body.startswith(b"<") else "application/json"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it waited no longer
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def _route(self, call: str, body: bytes) -> Any:
        for pattern, handler in _ROUTES.items():
            if found := re.fullmatch(pattern, call):
                return handler(self, body, *found.groups())
        raise Refused(404, "", b"404 page not found")

    def _filtered(self, things: dict[str, Any]) -> list[Any]:
        found = list(things.values())
        if "filter" in self.query:
            for predicate in json.loads(self.query["filter"])["predicates"]:
                assert predicate["operation"] in ("EQUALS", 1), predicate
                key, wanted = predicate["key"], predicate["stringValue"]
                found = [thing for thing in found if getattr(thing, key) == wanted]
        return found

    def _page(self, answer: Any, name: str, found: list[Any]) -> Any:
        """One page of a list; no list at all when it is empty, as the real API has it."""
        size = int(self.query.get("page_size") or 10)
        start = int(self.query.get("page_token") or 0)
        more = str(start + size) if start + size < len(found) else None
        page = {name: found[start : start + size]} if found else {}
        return answer(**page, next_page_token=more, total_size=len(found) or None)

    # What the routes do; their names are those of the API.
    def get_healthz(self, _: bytes) -> Any:
        return api.V2beta1GetHealthzResponse(multi_user=self.server_state.multi_user)

    def list_pipelines(self, _: bytes) -> Any:
        namespace = self.query.get("namespace") or None
        found = self._filtered(self.server_state.pipelines)
        found = [p for p in found if p.namespace == namespace]
        return self._page(api.V2beta1ListPipelinesResponse, "pipelines", found)

    def create_pipeline(self, body: bytes) -> Any:
        given = json.loads(body)
        _unique(self.server_state.pipelines, given["display_name"], given.get("namespace"))
        pipeline = api.V2beta1Pipeline(pipeline_id=_id(), created_at=_now(), **given)
        self.server_state.pipelines[pipeline.pipeline_id] = pipeline
        return pipeline

    def get_pipeline(self, _: bytes, pipeline_id: str) -> Any:
        return _found(self.server_state.pipelines, pipeline_id, "pipeline")

    def list_versions(self, _: bytes, pipeline_id: str) -> Any:
        found = self._filtered(self.server_state.versions)
        found = [v for v in found if v.pipeline_id == pipeline_id]
        return self._page(api.V2beta1ListPipelineVersionsResponse, "pipeline_versions", found)

    def get_version(self, _: bytes, pipeline_id: str, version_id: str) -> Any:
        return _found(self.server_state.versions, version_id, "pipeline version")

    def upload_version(self, body: bytes) -> Any:
        state = self.server_state
        head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        parts = list(BytesParser(policy=HTTP).parsebytes(head + body).iter_parts())
        content = {p.get_param("name", header="content-disposition"): p for p in parts}
        pipeline = _found(state.pipelines, self.query["pipelineid"], "pipeline")
        name = self.query["name"]
        _unique(
            {k: v for k, v in state.versions.items() if v.pipeline_id == pipeline.pipeline_id}, name
        )
        version = api.V2beta1PipelineVersion(
            pipeline_id=pipeline.pipeline_id,
            pipeline_version_id=_id(),
            display_name=name,
            name=name,
            created_at=_now(),
        )
        state.versions[version.pipeline_version_id] = version
        state.packages[name] = content["uploadfile"].get_payload(decode=True)
        return version

    def list_experiments(self, _: bytes) -> Any:
        namespace = self.query.get("namespace") or None
        found = self._filtered(self.server_state.experiments)
        found = [e for e in found if e.namespace == namespace]
        return self._page(api.V2beta1ListExperimentsResponse, "experiments", found)

    def create_experiment(self, body: bytes) -> Any:
        given = json.loads(body)
        if given.get("namespace") and not self.server_state.multi_user:
            raise Refused(400, "In single-user mode, an experiment cannot have a namespace")
        given["namespace"] = given.get("namespace") or None
        made = api.V2beta1Experiment(experiment_id=_id(), created_at=_now(), **given)
        self.server_state.experiments[made.experiment_id] = made
        return made

    def create_run(self, body: bytes) -> Any:
        given = _models(json.loads(body))
        _found(self.server_state.experiments, given["experiment_id"], "experiment")
        run = api.V2beta1Run(run_id=_id(), created_at=_now(), state="PENDING", **given)
        self.server_state.runs[run.run_id] = run
        return run

    def list_runs(self, _: bytes) -> Any:
        wanted = self.query.get("experiment_id")
        found = [r for r in self.server_state.runs.values() if r.experiment_id == wanted]
        return self._page(api.V2beta1ListRunsResponse, "runs", found)

    def get_run(self, _: bytes, run_id: str) -> Any:
        return _found(self.server_state.runs, run_id, "run")

    def retry_run(self, _: bytes, run_id: str) -> Any:
        run = _found(self.server_state.runs, run_id, "run")
        if run.state != "FAILED":
            raise Refused(400, "Workflow must be Failed/Error to retry")
        run.state, run.finished_at = "RUNNING", None
        return {}

    def list_schedules(self, _: bytes) -> Any:
        found = self._filtered(self.server_state.schedules)
        namespace = self.query.get("namespace") or None
        found = [s for s in found if s.namespace == namespace]
        return self._page(api.V2beta1ListRecurringRunsResponse, "recurring_runs", found)

    def create_schedule(self, body: bytes) -> Any:
        given = _models(json.loads(body))
        given["trigger"] = api.V2beta1Trigger(
            cron_schedule=api.V2beta1CronSchedule(**given["trigger"]["cron_schedule"])
        )
        given["max_concurrency"] = str(given["max_concurrency"])  # an int64 is a text in JSON
        experiment = _found(self.server_state.experiments, given["experiment_id"], "experiment")
        made = api.V2beta1RecurringRun(
            recurring_run_id=_id(),
            created_at=_now(),
            status="ENABLED" if given["mode"] == "ENABLE" else "DISABLED",
            namespace=experiment.namespace,
            **given,
        )
        self.server_state.schedules[made.recurring_run_id] = made
        return made

    def set_schedule(self, _: bytes, schedule_id: str, verb: str) -> Any:
        found = _found(self.server_state.schedules, schedule_id, "recurring run")
        found.status, found.mode = f"{verb.upper()}D", verb.upper()
        return {}

    def delete_schedule(self, _: bytes, schedule_id: str) -> Any:
        """As the versions do that do not know the policy ORPHAN: its runs are killed."""
        state = self.server_state
        _found(state.schedules, schedule_id, "recurring run")
        del state.schedules[schedule_id]
        for run in state.runs.values():
            if run.recurring_run_id == schedule_id and run.state == "RUNNING":
                run.state = "FAILED"
        return {}


_ROUTES: dict[str, Callable[..., Any]] = {
    "GET /healthz": _Handler.get_healthz,
    "GET /pipelines": _Handler.list_pipelines,
    "POST /pipelines": _Handler.create_pipeline,
    "POST /pipelines/upload_version": _Handler.upload_version,
    r"GET /pipelines/([^/]+)": _Handler.get_pipeline,
    r"GET /pipelines/([^/]+)/versions": _Handler.list_versions,
    r"GET /pipelines/([^/]+)/versions/([^/]+)": _Handler.get_version,
    "GET /experiments": _Handler.list_experiments,
    "POST /experiments": _Handler.create_experiment,
    "POST /runs": _Handler.create_run,
    "GET /runs": _Handler.list_runs,
    r"GET /runs/([^/]+)": _Handler.get_run,
    r"POST /runs/([^/]+):retry": _Handler.retry_run,
    "GET /recurringruns": _Handler.list_schedules,
    "POST /recurringruns": _Handler.create_schedule,
    r"POST /recurringruns/([^/]+):(enable|disable)": _Handler.set_schedule,
    r"DELETE /recurringruns/([^/]+)": _Handler.delete_schedule,
}


def _models(given: dict[str, Any]) -> dict[str, Any]:
    """The parts of a run or schedule as models."""
    kinds = {
        "pipeline_version_reference": api.V2beta1PipelineVersionReference,
        "runtime_config": api.V2beta1RuntimeConfig,
    }
    return {n: kinds[n](**v) if n in kinds else v for n, v in given.items()}


def _found(things: dict[str, Any], wanted: str, kind: str) -> Any:
    if wanted not in things:
        raise Refused(404, f"ResourceNotFoundError: {kind} {wanted} not found")
    return things[wanted]


def _unique(things: dict[str, Any], name: str, namespace: str | None = None) -> None:
    for thing in things.values():
        if thing.display_name == name and getattr(thing, "namespace", None) == namespace:
            raise Refused(409, f"AlreadyExistsError: the name {name} already exists")


def _id() -> str:
    return str(uuid.uuid4())


def _now() -> datetime:
    return datetime.fromtimestamp(int(time.time()), UTC)
