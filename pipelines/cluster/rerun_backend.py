"""`macrec rerun RUN_ID`: retries or clones a run on a cluster."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from components.run_form import RECOMMENDER, flatten, form_arguments
from macrec.core.errors import UserError, check
from macrec.core.progress import log
from pipelines.cluster import status, submit
from pipelines.cluster.client import Backend, Connection
from pipelines.dag.compiled_dag import Dag, read_dag
from pipelines.local.pipeline_runner import PIPELINE_YAML
from pipelines.local.rerun_choice import Choice, Given, force_settings


class ClusterRerun(NamedTuple):
    """Options for the rerun of a run on a cluster."""

    connection: Connection
    package: Path = PIPELINE_YAML
    """Compiled pipeline of a clone."""
    clone: bool = False
    """Whether to start a new run even if the failed run could be retried."""
    wait: bool = False
    """Whether to wait until the run ends."""


def rerun_backend(
    backend: Backend, run_id: str, chosen: Choice, given: Given, options: ClusterRerun
) -> str:
    """Retry the run, or clone it with the current code; return the id of the run that starts.

    A failed run is retried if its pipeline version is the current one and nothing else changes.
    Finished stages then keep their results, including the snapshot of the data. Otherwise a new run
    with the same parameters starts, and finished stages come from KFP's cache or the artifact
    store.

    Raises:
        UserError: if the run has not ended or belongs to another pipeline.
        TryAgain: if the backend does not respond.
    """
    with backend.convert_errors(f"run {run_id}"):
        run = backend.client.get_run(run_id)
    check(
        run.state in ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED", "ERROR"),
        f"{run_id}: {run.state or 'not begun'}, so it is still running. Wait until it ends, or "
        "terminate it in the UI.",
    )
    dag = read_dag(options.package)
    _check_ours(backend, run, dag)
    found = {s.stage: s.state for s in status.read_backend_status(backend, run_id).stages}
    stage = dag.checked(chosen.stage) if chosen.mode else ""
    finished = found.get(stage) in status.FINISHED
    earlier = dict((run.runtime_config and run.runtime_config.parameters) or {})
    salts = force_settings(dag, chosen, finished)
    values = given({**flatten(earlier), **salts}, RECOMMENDER)
    # Flattened, because a run that was started in the UI also states empty settings of stages.
    changed = form_arguments(values) != form_arguments(flatten(earlier))
    as_it_was = run.state == "FAILED" and not (chosen.mode or changed or options.clone)
    if as_it_was and _is_current(backend, run, options.package):
        started = _retry(backend, run_id)
    else:
        started = _clone(
            backend, run, options.package, dag, stage if chosen.mode == "only" else "", values
        )
    if options.wait:
        submit.wait(backend, started)
    return started


def _is_current(backend: Backend, run: Any, package: Path) -> bool:
    """Return whether the run's pipeline version is the current one.

    Only then may the run be retried, because a retry uses the old images.
    """
    reference = run.pipeline_version_reference
    if reference is None:
        return False
    with backend.convert_errors("reading the run's pipeline version"):
        version = backend.client.get_pipeline_version(
            reference.pipeline_id, reference.pipeline_version_id
        )
    return version.display_name == submit.version_name(package.read_bytes())


def _retry(backend: Backend, run_id: str) -> str:
    with backend.convert_errors(f"retrying run {run_id}"):
        backend.client.runs.run_service_retry_run(run_id=run_id)
    print(
        f"run: {run_id} (retried: finished stages keep their results)\nUI: {backend.link(run_id)}"
    )
    return run_id


def _clone(
    backend: Backend,
    run: Any,
    package: Path,
    dag: Dag,
    only: str,
    values: dict[str, Any],
) -> str:
    """Start a new run based on an earlier one, and return its id.

    Args:
        backend: the backend.
        run: the earlier run.
        package: compiled pipeline.
        dag: the current pipeline.
        only: the single stage to run; the whole pipeline if empty.
        values: checked settings of the new run, by their one name.
    """
    submit.check_sources(values)
    log.info("a new run with the parameters of %s", run.run_id)
    name = f"{run.display_name} again" + (f", only {only}" if only else "")
    common = {
        "experiment_id": run.experiment_id,
        "params": form_arguments(values),
        "service_account": run.service_account or None,
    }
    if not only:
        version = submit.ensure_uploaded(backend, dag.name, package)
        return submit.start(
            backend,
            name,
            pipeline_id=version.pipeline_id,
            version_id=version.version_id,
            **common,
        )
    # Not uploaded as a version: the UI shows the newest version first and offers it for new runs.
    with tempfile.TemporaryDirectory(prefix="macrec-") as folder:
        part = Path(folder) / "pipeline.yaml"
        part.write_text(dag.cut(only))
        return submit.start(backend, name, pipeline_package_path=str(part), **common)


def _check_ours(backend: Backend, run: Any, dag: Dag) -> None:
    """Raise `UserError` if the run belongs to another pipeline."""
    reference, spec = run.pipeline_version_reference, run.pipeline_spec
    if reference is not None:
        with backend.convert_errors("reading the run's pipeline"):
            name = backend.client.get_pipeline(reference.pipeline_id).display_name
    else:
        spec = (spec or {}).get("pipeline_spec", spec or {})
        name = spec.get("pipelineInfo", {}).get("name", "unknown")
    if name != dag.name:
        raise UserError(
            f"{run.run_id}: a run of pipeline {name!r}, not of {dag.name!r}. Clone it in the UI."
        )
