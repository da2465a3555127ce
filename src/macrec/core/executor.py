"""Run a stage: compute its fingerprint, reuse a stored result, or compute and commit a new one.

A result that the artifact store has under the same fingerprint is restored, not recomputed.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from macrec.core.artifact import Json, Output
from macrec.core.checkpoint import Checkpoints
from macrec.core.errors import UserError, check
from macrec.core.fingerprint import code_version, fingerprint
from macrec.core.kernels import numeric_kernels
from macrec.core.launched import join_processes
from macrec.core.progress import log
from macrec.core.shortage import explain_shortage
from macrec.core.stage import Job, Metrics, Stage
from macrec.core.store import ArtifactStore


class Result(NamedTuple):
    """The outcome of a stage."""

    metrics: Metrics
    reused: bool
    fingerprint: str


def execute(
    stage: Stage,
    settings: Any,
    inputs: Any,
    outputs: Any,
    execution: Any,
    *,
    store: ArtifactStore | None = None,
    salt: str = "",
) -> Result:
    """Run a stage, or restore the result that an identical run left in the store."""
    name, together = stage.name, join_processes()
    check(
        together.count == 1 or stage.distributed,
        f"{name}: cannot run in {together.count} processes. Start it without torchrun.",
    )
    inputs = stage.used_inputs(settings, inputs)
    identity = fingerprint(stage, settings, inputs, salt)
    reusable = store if stage.reusable else None
    job = Job(
        settings=settings,
        inputs=inputs,
        outputs=outputs,
        execution=execution,
        checkpoint_uri=_checkpoint_uri(stage, identity, reusable),
        cache_uri=_cache_uri(stage, reusable),
        made_from=_provenance(stage, settings, inputs, identity),
    )
    if not together.is_first:
        reused = together.agree(False)
        if not reused:
            stage.run(job)
        return Result({}, reused, identity)
    record = reusable.find(name, identity) if reusable else None
    values = vars(execution) | vars(settings)
    by_setting = [(p, values[p.name]) for p in stage.parameters]
    by_name = outputs_by_name(outputs)
    with (
        _lock(by_name),
        explain_shortage(name, by_setting, [output.path for output in by_name.values()]),
    ):
        if reusable and record:
            if handed_over := _restore(stage, reusable, record, by_name, identity):
                together.agree(True)
                return handed_over
            log.warning("%s: the stored result is damaged and is computed again", name)
        together.agree(False)
        metrics = _compute(stage, job, by_name, identity)
        if reusable:
            quicker = reusable.commit(name, identity, by_name, metrics, replace=record is not None)
            if quicker and reusable.restore(quicker, by_name):
                metrics = quicker["metrics"]
            Checkpoints(job.checkpoint_uri).remove()
    return Result(metrics, False, identity)


def restore_finished(
    stage: Stage, settings: Any, inputs: Any, outputs: Any, store: ArtifactStore, salt: str = ""
) -> Result | None:
    """Restore the result of an identical run; return None if the store has no intact one."""
    inputs = stage.used_inputs(settings, inputs)
    identity = fingerprint(stage, settings, inputs, salt)
    by_name = outputs_by_name(outputs)
    record = store.find(stage.name, identity) if stage.reusable else None
    with _lock(by_name):
        return _restore(stage, store, record, by_name, identity) if record else None


def outputs_by_name(outputs: Any) -> dict[str, Output]:
    """Return the outputs of a stage by field name."""
    return {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}


@contextmanager
def _lock(outputs: Mapping[str, Output]) -> Iterator[None]:
    """Lock the output folders against other processes within the block."""
    with ExitStack() as stack:
        for output in outputs.values():
            stack.enter_context(output.lock())
        yield


def _restore(
    stage: Stage, store: ArtifactStore, record: Json, by_name: Mapping[str, Output], identity: str
) -> Result | None:
    """Restore the stored result into the outputs; return None if it is damaged."""
    if not store.restore(record, by_name):
        return None
    # A run that ended between commit and removal left its checkpoints behind.
    Checkpoints(_checkpoint_uri(stage, identity, store)).remove()
    log.info("%s: reused, nothing to compute (fingerprint %s)", stage.name, identity[:12])
    return Result(record["metrics"], True, identity)


def _checkpoint_uri(stage: Stage, identity: str, store: ArtifactStore | None) -> str:
    if store is None or not stage.resumable:
        return ""
    return f"{store.storage.uri}/checkpoints/{stage.name}/{identity}"


def _cache_uri(stage: Stage, store: ArtifactStore | None) -> str:
    return f"{store.storage.uri}/caches/{stage.name}" if store and stage.cached else ""


def _compute(
    stage: Stage, job: Job[Any, Any, Any, Any], by_name: Mapping[str, Output], identity: str
) -> Metrics:
    started = time.monotonic()
    for output in by_name.values():
        output.prepare()
    log.info("%s: started (fingerprint %s)", stage.name, identity[:12])
    try:
        metrics = check_finite(stage.run(job))
        assert job.made_from is not None
        for output in by_name.values():
            output.commit(job.made_from)
    except BaseException:
        for output in by_name.values():  # a partial result is useless and fills the disk
            output.discard()
        raise
    log.info("%s: numeric kernels: %s", stage.name, numeric_kernels())
    log.info("%s: finished in %.1f s", stage.name, time.monotonic() - started)
    return metrics


def _provenance(stage: Stage, settings: Any, inputs: Any, identity: str) -> Json:
    """Return the provenance of a result."""
    values = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
    return {
        "stage": stage.name,
        "code_version": code_version(stage, settings),
        "config": dataclasses.asdict(settings),
        "inputs": {key: value.digest for key, value in values.items() if value},
        "fingerprint": identity,
    }


def check_finite(metrics: Mapping[str, float]) -> Metrics:
    """Return the metrics as plain finite floats, because JSON and the KFP backend reject NaN.

    Raises:
        UserError: a metric is not finite, so it cannot be trusted.
    """
    values = {name: float(value) for name, value in metrics.items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise UserError(f"metrics not finite: {', '.join(broken)}. The inputs are degenerate.")
    return values
