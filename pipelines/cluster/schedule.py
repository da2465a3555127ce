"""`macrec schedule`: creates a recurring run, or replaces it if something has changed."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from components.run_form import flatten, form_arguments
from macrec.core.progress import log
from pipelines.cluster import client
from pipelines.cluster import cron as crons
from pipelines.cluster.client import Backend, name_filter
from pipelines.cluster.submit import (
    ClusterOptions,
    Version,
    check_sources,
    ensure_uploaded,
    find_or_create_experiment,
)
from pipelines.dag.compiled_dag import read_dag

NAME = "macrec retraining"
AT_WORK = ("PENDING", "RUNNING", "CANCELING", "PAUSED")
_ENABLED = "ENABLED"


def explain(cron: str, now: datetime | None = None) -> str:
    """Print a cron expression in words with its next times; return it in normal form.

    Args:
        cron: six fields, seconds first, in UTC.
        now: start of the next times; the current time if None.

    Raises:
        UserError: if the cron expression is invalid.
    """
    when = crons.parse(cron)
    times = when.next_times(now or datetime.now(UTC), 2)
    print(f"{when.text}: {crons.in_words(when)} (UTC)")
    print("next: " + ", ".join(f"{t:%a %Y-%m-%d %H:%M:%S}" for t in times))
    return when.text


def schedule(
    cron: str, values: Mapping[str, Any], cluster: ClusterOptions, *, name: str = NAME
) -> None:
    """Create the schedule if it does not exist; replace it if it differs.

    Args:
        cron: valid cron expression, as `explain` returns it.
        values: checked settings by their one name.
        cluster: where and how the runs start.
        name: name of the schedule.

    Raises:
        UserError: if a cluster cannot use the settings, or the backend refuses.
        TryAgain: if the backend does not respond.
    """
    check_sources(values)
    dag = read_dag(cluster.package)
    backend = client.connect(cluster.connection)
    version = ensure_uploaded(backend, dag.name, cluster.package)
    wanted = {
        "job_name": name,
        "experiment_id": find_or_create_experiment(backend, cluster.experiment),
        "cron_expression": cron,
        "max_concurrency": 1,
        "no_catchup": True,
        "params": form_arguments(values),
        "pipeline_id": version.pipeline_id,
        "version_id": version.version_id,
        "service_account": cluster.service_account,
    }
    _settle(backend, name, wanted, version)


def _settle(backend: Backend, name: str, wanted: Mapping[str, Any], version: Version) -> None:
    """Ensure that exactly one enabled schedule has this name, with the wanted settings."""
    standing = backend.list_all(
        "listing schedules",
        backend.client.list_recurring_runs,
        "recurring_runs",
        namespace=backend.namespace or None,
        filter=name_filter(name),
    )
    standing = [s for s in standing if s.display_name == name]
    same = next((s for s in standing if _is_enabled(s) and not differences(s, wanted)), None)
    old = [s for s in standing if s is not same]
    enabled = [s for s in old if _is_enabled(s)]
    if same:
        _disable(backend, enabled)
        print(f"schedule {name!r}: unchanged ({same.recurring_run_id})")
    else:
        for found in old:
            changed = ", ".join(differences(found, wanted)) or "it was disabled"
            log.info("changed: %s", changed)
        created = _replace(backend, enabled, wanted)
        verb = "replaced" if old else "made"
        print(f"schedule {name!r}: {verb} ({created}), version {version.name}")
    _remove(backend, old)


def _replace(backend: Backend, enabled: list[Any], wanted: Mapping[str, Any]) -> str:
    """Disable the old schedules and create the new one; enable the old ones again on failure."""
    try:
        _disable(backend, enabled)  # first, so that the old and the new do not both start a run
        with backend.convert_errors("making the schedule"):
            return backend.client.create_recurring_run(**wanted).recurring_run_id
    except BaseException:
        for found in enabled:
            with backend.convert_errors("enabling the old schedule again"):
                backend.client.enable_recurring_run(found.recurring_run_id)
        raise


def _disable(backend: Backend, enabled: list[Any]) -> None:
    for found in enabled:
        with backend.convert_errors("disabling the old schedule"):
            backend.client.disable_recurring_run(found.recurring_run_id)


def _is_enabled(found: Any) -> bool:
    return found.status == _ENABLED


def differences(found: Any, wanted: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields and run parameters in which a schedule differs."""
    trigger = found.trigger.cron_schedule if found.trigger else None
    reference = found.pipeline_version_reference
    standing = {
        "cron_expression": trigger.cron if trigger else None,
        "experiment_id": found.experiment_id,
        "max_concurrency": int(found.max_concurrency or 0),
        "no_catchup": bool(found.no_catchup),
        "version_id": reference.pipeline_version_id if reference else None,
    }
    result = [name for name, value in standing.items() if value != wanted[name]]
    if wanted["service_account"] and found.service_account != wanted["service_account"]:
        result.append("service_account")
    before = flatten((found.runtime_config.parameters if found.runtime_config else None) or {})
    after = flatten(wanted["params"])
    return result + [n for n in sorted({*before, *after}) if before.get(n) != after.get(n)]


def _remove(backend: Backend, old: list[Any]) -> None:
    """Delete old schedules that have no active run; the next `macrec schedule` deletes the others.

    A schedule owns its workflows, so deleting it ends them (kubeflow/pipelines#12573). Only KFP
    versions that support the policy ORPHAN keep them.
    """
    for found in old:
        recurring_run_id = found.recurring_run_id
        if running := _unfinished_runs(backend, found):
            print(
                f"old schedule {recurring_run_id}: disabled, not deleted, because its run "
                f"{running[0]} is at work and goes on; `macrec schedule` deletes it later"
            )
            continue
        with backend.convert_errors("deleting the old schedule"):
            backend.client.recurring_runs.recurring_run_service_delete_recurring_run(
                recurring_run_id=recurring_run_id, propagation_policy="ORPHAN"
            )


def _unfinished_runs(backend: Backend, found: Any) -> list[str]:
    """Return the ids of a schedule's runs that have not ended."""
    runs = backend.list_all(
        "listing the schedule's runs",
        backend.client.list_runs,
        "runs",
        experiment_id=found.experiment_id,
        sort_by="created_at desc",
    )
    return [
        r.run_id
        for r in runs
        if r.recurring_run_id == found.recurring_run_id and r.state in (*AT_WORK, None)
    ]
