"""`macrec submit`: starts a run on Kubeflow Pipelines from a compiled pipeline."""

import hashlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.run_form import RECOMMENDER, form_arguments
from macrec.core.errors import TryAgain, UserError
from macrec.core.progress import log
from pipelines.cluster import client, status
from pipelines.cluster.client import Backend, Connection, name_filter
from pipelines.dag.compiled_dag import read_dag
from pipelines.local import run_record
from pipelines.local.input_check import source_problems
from pipelines.local.pipeline_runner import PIPELINE_YAML

EXPERIMENT = "macrec"
EXIT_RUN_FAILED = 1
POLL_SECONDS = 15.0
PATIENCE_SECONDS = 600.0
"""How long `--wait` tolerates a backend that does not respond."""


class Version(NamedTuple):
    """A pipeline version on the backend."""

    pipeline_id: str
    version_id: str
    name: str
    new: bool


class ClusterOptions(NamedTuple):
    """How a run or a schedule starts on a cluster."""

    connection: Connection
    experiment: str = EXPERIMENT
    """Experiment that groups the runs."""
    package: Path = PIPELINE_YAML
    """Compiled pipeline."""
    service_account: str | None = None
    """Kubernetes service account of the pods; None uses the backend's default."""


def submit(
    values: Mapping[str, Any],
    cluster: ClusterOptions,
    *,
    run_name: str = "",
    should_wait: bool = False,
) -> str:
    """Start a run, print its URL in the UI, and return its id.

    Args:
        values: checked settings by their one name.
        cluster: where and how the run starts.
        run_name: name of the run in the UI; the pipeline and the time if empty.
        should_wait: whether to wait until the run ends.

    Raises:
        UserError: if a parameter names a local file, data or models are missing, or the backend
            refuses.
        TryAgain: if the backend does not respond.
    """
    check_sources(values)
    dag = read_dag(cluster.package)
    backend = client.connect(cluster.connection)
    version = ensure_uploaded(backend, dag.name, cluster.package)
    created = start(
        backend,
        run_name or f"{dag.name} {run_record.now()[:19].replace('T', ' ')}",
        experiment_id=find_or_create_experiment(backend, cluster.experiment),
        params=form_arguments(values),
        pipeline_id=version.pipeline_id,
        version_id=version.version_id,
        service_account=cluster.service_account,
    )
    if should_wait:
        wait(backend, created)
    return created


def start(backend: Backend, name: str, **given: Any) -> str:
    """Create a run, print its id and its URL in the UI, and return the id."""
    with backend.convert_errors(f"starting the run {name!r}"):
        created = backend.client.run_pipeline(job_name=name, **given).run_id
    print(f"run: {created}\nUI: {backend.link(created)}")
    return created


def check_sources(values: Mapping[str, Any]) -> None:
    """Check that data and models are given and that a cluster can read them.

    Raises:
        UserError: if a path is local, or the data or models are incomplete or contradict each
            other.
    """
    names = [*RECOMMENDER.sources, "run_previous", "run_store"]
    local = {
        name: uri
        for name in names
        if (uri := str(values.get(name) or "")) and not uri.startswith(("gs://", "hub:"))
    }
    if local:
        listed = "".join(f"\n  {name}={uri}" for name, uri in local.items())
        raise UserError(
            f"{len(local)} path{'s' * (len(local) > 1)} that a cluster cannot read:{listed}\n"
            "Copy them to a bucket (`gcloud storage cp -r PATH gs://BUCKET/`) and give its gs:// "
            "address; a model may be hub:NAME@REVISION."
        )
    if problems := source_problems(values):
        raise UserError("\n  ".join(problems))
    if not values.get("run_store"):
        log.warning(
            "run_store is empty: a preempted training starts again from the beginning, and reruns "
            "have only KFP's cache"
        )


def find_or_create_experiment(backend: Backend, name: str) -> str:
    """Return the id of the experiment with this name; create it if it does not exist."""
    with backend.convert_errors(f"opening the experiment {name!r}"):
        return backend.client.create_experiment(
            name, namespace=backend.namespace or None
        ).experiment_id


def version_name(content: bytes) -> str:
    """Return the version name of a compiled pipeline; it depends only on the bytes of the file."""
    return f"macrec-{hashlib.sha256(content).hexdigest()[:16]}"


def ensure_uploaded(backend: Backend, pipeline: str, package: Path) -> Version:
    """Return the pipeline version with exactly the bytes of a file; upload it if it is missing."""
    name = version_name(package.read_bytes())
    pipeline_id = _find_or_create_pipeline(backend, pipeline)
    if found := _find_version(backend, pipeline_id, name):
        return Version(pipeline_id, found, name, new=False)
    with backend.convert_errors(f"uploading {package}"):
        made = backend.client.upload_pipeline_version(
            str(package), name, pipeline_id=pipeline_id
        ).pipeline_version_id
    log.info("uploaded %s as version %s of pipeline %s", package, name, pipeline)
    return Version(pipeline_id, made, name, new=True)


def _find_version(backend: Backend, pipeline_id: str, name: str) -> str | None:
    found = backend.list_all(
        "listing pipeline versions",
        backend.client.list_pipeline_versions,
        "pipeline_versions",
        pipeline_id=pipeline_id,
        filter=name_filter(name),
    )
    return next((v.pipeline_version_id for v in found if v.display_name == name), None)


def _find_or_create_pipeline(backend: Backend, name: str) -> str:
    """Return the id of the pipeline with this name; create it without a version if missing."""
    found = backend.list_all(
        "listing pipelines",
        backend.client.list_pipelines,
        "pipelines",
        namespace=backend.namespace or None,
        filter=name_filter(name),
    )
    for pipeline in found:
        if pipeline.display_name == name:
            return pipeline.pipeline_id
    from kfp_server_api import V2beta1Pipeline

    body = V2beta1Pipeline(display_name=name, name=name, namespace=backend.namespace or None)
    with backend.convert_errors(f"making the pipeline {name!r}"):
        made = backend.client.pipelines.pipeline_service_create_pipeline(pipeline=body)
    return made.pipeline_id


def wait(backend: Backend, run_id: str) -> None:
    """Wait until a run ends, and log the state changes of its stages.

    Ends the process with exit code 1 if the run did not succeed.

    Raises:
        TryAgain: if the backend has not responded for ten minutes; the run continues.
    """
    # kfp's own wait_for_run_completion never returns if the run was canceled.
    logged: dict[str, str] = {}
    heard = time.monotonic()
    while True:
        try:
            run = status.read_backend_status(backend, run_id)
        except TryAgain as error:
            if time.monotonic() - heard > PATIENCE_SECONDS:
                raise TryAgain(f"{error} The run continues: macrec status {run_id}") from error
            log.warning("%s; the run continues, asking again", error)
        else:
            heard = time.monotonic()
            _log_changes(run, logged)
            if run.ended:
                break
        time.sleep(POLL_SECONDS)
    for line in status.lines(run):
        print(line)
    if run.state != status.SUCCEEDED:
        sys.exit(EXIT_RUN_FAILED)


def _log_changes(run: status.RunStatus, logged: dict[str, str]) -> None:
    """Log the stages whose state differs from the one logged last."""
    for stage in run.stages:
        if stage.state != logged.get(stage.stage, status.WAITING) and stage.state != status.NOT_RUN:
            log.info("%s: %s", stage.stage, stage.state)
        logged[stage.stage] = stage.state
