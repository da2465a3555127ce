"""`macrec submit`: starts a run on Kubeflow Pipelines from a compiled pipeline."""

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.run_form import RECOMMENDER, form_arguments
from macrec.core.errors import TryAgain, UserError
from macrec.core.progress import log
from pipelines.cluster import client, status
from pipelines.cluster.client import Backend, named
from pipelines.dag.compiled_dag import of_file
from pipelines.local import run_record
from pipelines.local.pipeline_runner import PIPELINE_YAML
from pipelines.local.run import source_problems

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


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that a run or a schedule on a cluster needs besides the run parameters."""
    client.add_flags(parser)
    parser.add_argument(
        "--experiment",
        default=os.environ.get("KFP_EXPERIMENT", EXPERIMENT),
        help=f"experiment that groups the runs [KFP_EXPERIMENT] (default: {EXPERIMENT})",
    )
    add_package_flag(parser)
    parser.add_argument("--service-account", help="Kubernetes account the pods run as")
    parser.add_argument("--store", help="artifact store, gs://BUCKET/FOLDER; reruns go on from it")
    parser.add_argument("--cache-salt", help="any new text recomputes every stage")


def add_package_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the compiled pipeline to upload."""
    parser.add_argument(
        "--package",
        type=Path,
        default=PIPELINE_YAML,
        metavar="FILE",
        help="compiled pipeline (`macrec compile --out FILE`; default: pipeline.yaml)",
    )


def add_wait_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that makes the command wait for the end of the run."""
    parser.add_argument("--wait", action="store_true", help="wait for the end; exit 1 if it failed")


def submit(options: argparse.Namespace, values: Mapping[str, Any]) -> str:
    """Start a run, print its URL in the UI, and return its id.

    Args:
        options: parsed command line with the flags of `add_flags`, run_name and wait.
        values: checked settings by their one name.

    Raises:
        UserError: if a parameter names a local file, data or models are missing, or the backend
            refuses.
        TryAgain: if the backend does not respond.
    """
    check_sources(values)
    dag = of_file(options.package)
    backend = client.connected(options)
    version = uploaded(backend, dag.name, options.package)
    created = start(
        backend,
        options.run_name or f"{dag.name} {run_record.now()[:19].replace('T', ' ')}",
        experiment_id=experiment(backend, options.experiment),
        params=form_arguments(values),
        pipeline_id=version.pipeline_id,
        version_id=version.version_id,
        service_account=options.service_account,
    )
    if options.wait:
        wait(backend, created)
    return created


def start(backend: Backend, name: str, **given: Any) -> str:
    """Create a run, print its id and its URL in the UI, and return the id."""
    with backend.calling(f"starting the run {name!r}"):
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


def experiment(backend: Backend, name: str) -> str:
    """Return the id of the experiment with this name; create it if it does not exist."""
    with backend.calling(f"opening the experiment {name!r}"):
        return backend.client.create_experiment(
            name, namespace=backend.namespace or None
        ).experiment_id


def version_name(content: bytes) -> str:
    """Return the version name of a compiled pipeline; it depends only on the bytes of the file."""
    return f"macrec-{hashlib.sha256(content).hexdigest()[:16]}"


def uploaded(backend: Backend, pipeline: str, package: Path) -> Version:
    """Return the pipeline version with exactly the bytes of a file; upload it if it is missing."""
    name = version_name(package.read_bytes())
    pipeline_id = _pipeline(backend, pipeline)
    if found := _version(backend, pipeline_id, name):
        return Version(pipeline_id, found, name, new=False)
    with backend.calling(f"uploading {package}"):
        made = backend.client.upload_pipeline_version(
            str(package), name, pipeline_id=pipeline_id
        ).pipeline_version_id
    log.info("uploaded %s as version %s of pipeline %s", package, name, pipeline)
    return Version(pipeline_id, made, name, new=True)


def _version(backend: Backend, pipeline_id: str, name: str) -> str | None:
    found = backend.pages(
        "listing pipeline versions",
        backend.client.list_pipeline_versions,
        "pipeline_versions",
        pipeline_id=pipeline_id,
        filter=named(name),
    )
    return next((v.pipeline_version_id for v in found if v.display_name == name), None)


def _pipeline(backend: Backend, name: str) -> str:
    """Return the id of the pipeline with this name; create it without a version if missing."""
    found = backend.pages(
        "listing pipelines",
        backend.client.list_pipelines,
        "pipelines",
        namespace=backend.namespace or None,
        filter=named(name),
    )
    for pipeline in found:
        if pipeline.display_name == name:
            return pipeline.pipeline_id
    from kfp_server_api import V2beta1Pipeline

    body = V2beta1Pipeline(display_name=name, name=name, namespace=backend.namespace or None)
    with backend.calling(f"making the pipeline {name!r}"):
        made = backend.client.pipelines.pipeline_service_create_pipeline(pipeline=body)
    return made.pipeline_id


def wait(backend: Backend, run_id: str) -> None:
    """Wait until a run ends, and log the state changes of its stages.

    Ends the process with exit code 1 if the run did not succeed.

    Raises:
        TryAgain: if the backend has not responded for ten minutes; the run continues.
    """
    # kfp's own wait_for_run_completion never returns if the run was canceled.
    told: dict[str, str] = {}
    heard = time.monotonic()
    while True:
        try:
            run = status.of_backend(backend, run_id)
        except TryAgain as error:
            if time.monotonic() - heard > PATIENCE_SECONDS:
                raise TryAgain(f"{error} The run goes on: macrec status {run_id}") from error
            log.warning("%s; the run goes on, asking again", error)
        else:
            heard = time.monotonic()
            _tell(run, told)
            if run.ended:
                break
        time.sleep(POLL_SECONDS)
    for line in status.lines(run):
        print(line)
    if run.state != status.SUCCEEDED:
        sys.exit(EXIT_RUN_FAILED)


def _tell(run: status.RunStatus, told: dict[str, str]) -> None:
    """Log the stages whose state differs from the one logged last."""
    for stage in run.stages:
        if stage.state != told.get(stage.stage, status.WAITING) and stage.state != status.NOT_RUN:
            log.info("%s: %s", stage.stage, stage.state)
        told[stage.stage] = stage.state
