"""What every stage does around its `run`: fingerprint, reuse, commit, hand over.

A stage is a module with the dataclasses Config, Inputs, Outputs, Execution and the function
`run(config, inputs, outputs, execution) -> metrics`. A result that is in the artifact store under
the same fingerprint is handed over instead of being computed again.

A stage that can be resumed has one argument more, `checkpoint_uri: str = ""`: a folder of the store
that belongs to this fingerprint (`core.checkpoint.Checkpoints`). It is empty without a store,
and emptied when the result is in the store.

Such a stage may have the argument `made_for`, too: what its result is made from, which a checkpoint
then says.

A stage that can use single results of earlier runs has the argument `cache_uri: str = ""`: a folder
of the store that belongs to the stage, whatever the fingerprint (`data.embedding_cache`). Neither
folder is part of the fingerprint.

A stage that does not read all its inputs under every configuration has the function
`used_inputs(config, inputs) -> Inputs`, which leaves out the others. Those are no part of the
fingerprint.

A stage with `DISTRIBUTED = True` may be started in several processes by torchrun. All run it;
process 0 alone looks into the store, commits and has metrics.
"""

import dataclasses
import inspect
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from macrec.core.artifact import Artifact, Json, Output, Source
from macrec.core.checkpoint import Checkpoints
from macrec.core.errors import UserError, check
from macrec.core.fingerprint import Stage, code_version, fingerprint, stage_name
from macrec.core.parameters import Parameter, fields
from macrec.core.processes import processes
from macrec.core.progress import Progress, log
from macrec.core.shortage import told
from macrec.core.store import ArtifactStore

__all__ = ["Metrics", "Progress", "Result", "execute", "log", "main"]

Metrics = dict[str, float]


class Result(NamedTuple):
    """How a stage ended."""

    metrics: Metrics
    reused: bool
    fingerprint: str


def input_artifacts(stage: Stage) -> list[Parameter]:
    """The artifacts that the stage reads."""
    return [f for f in fields(stage.Inputs) if f.kind is Artifact]


def sources(stage: Stage) -> list[Parameter]:
    """The external data that the stage reads."""
    return [f for f in fields(stage.Inputs) if f.kind is Source]


def settings(stage: Stage) -> list[Parameter]:
    """The fields of Config, then those of Execution."""
    return [*fields(stage.Config), *fields(stage.Execution)]


def execute(
    stage: Stage,
    config: Any,
    inputs: Any,
    outputs: Any,
    execution: Any,
    *,
    store: ArtifactStore | None = None,
    salt: str = "",
) -> Result:
    """Runs a stage, or hands over what an identical run has left in the store."""
    name, together = stage_name(stage), processes()
    check(
        together.count == 1 or getattr(stage, "DISTRIBUTED", False),
        f"{name}: cannot be shared by {together.count} processes. Start it without torchrun.",
    )
    inputs = _used(stage, config, inputs)
    identity = fingerprint(stage, config, inputs, salt)
    by_name: dict[str, Output] = {
        f.name: getattr(outputs, f.name) for f in dataclasses.fields(outputs)
    }
    reusable = store is not None and getattr(stage, "REUSABLE", True)
    arguments = _folders(stage, identity, store if reusable else None)
    checkpoint_uri = arguments.get("checkpoint_uri", "")
    if "made_for" in inspect.signature(stage.run).parameters:
        arguments["made_for"] = _facts(stage, config, inputs, identity)
    if not together.first:
        reused = together.agree(False)
        if not reused:
            stage.run(config, inputs, outputs, execution, **arguments)
        return Result({}, reused, identity)
    record = store.find(name, identity) if store and reusable else None
    given = vars(execution) | vars(config)
    by_setting = [(p, given[p.name]) for p in settings(stage)]
    with _held(by_name), told(name, by_setting, [output.path for output in by_name.values()]):
        if store and record:
            if handed_over := _handed_over(stage, store, record, by_name, identity):
                together.agree(True)
                return handed_over
            log.warning("%s: the stored result is damaged and is computed again", name)
        together.agree(False)
        metrics = _compute(stage, config, inputs, by_name, outputs, execution, identity, arguments)
        if store and reusable:
            quicker = store.commit(name, identity, by_name, metrics, replace=record is not None)
            if quicker and store.restore(quicker, by_name):
                metrics = quicker["metrics"]
            Checkpoints(checkpoint_uri).remove()
    return Result(metrics, False, identity)


def finished(
    stage: Stage, config: Any, inputs: Any, outputs: Any, store: ArtifactStore, salt: str = ""
) -> Result | None:
    """Hands over what an identical run has left in the store; None if there is nothing whole."""
    identity = fingerprint(stage, config, _used(stage, config, inputs), salt)
    by_name = {f.name: getattr(outputs, f.name) for f in dataclasses.fields(outputs)}
    record = store.find(stage_name(stage), identity) if getattr(stage, "REUSABLE", True) else None
    with _held(by_name):
        return _handed_over(stage, store, record, by_name, identity) if record else None


@contextmanager
def _held(outputs: Mapping[str, Output]) -> Iterator[None]:
    """Keeps other processes out of the output folders within the block."""
    with ExitStack() as stack:
        for output in outputs.values():
            stack.enter_context(output.held())
        yield


def _used(stage: Stage, config: Any, inputs: Any) -> Any:
    """The inputs without those that this configuration does not read."""
    used = getattr(stage, "used_inputs", None)
    return used(config, inputs) if used else inputs


def _handed_over(
    stage: Stage, store: ArtifactStore, record: Json, by_name: Mapping[str, Output], identity: str
) -> Result | None:
    """The stored result in the place of the outputs; None if it is damaged."""
    if not store.restore(record, by_name):
        return None
    # of a run that ended between commit and removal
    Checkpoints(_folders(stage, identity, store).get("checkpoint_uri", "")).remove()
    name = stage_name(stage)
    log.info("%s: reused, nothing to compute (fingerprint %s)", name, identity[:12])
    return Result(record["metrics"], True, identity)


def _folders(stage: Stage, identity: str, store: ArtifactStore | None) -> dict[str, Any]:
    """Where the stage may keep what is no result, by argument; nothing without a store."""
    if store is None:
        return {}
    root, name = store.storage.uri, stage_name(stage)
    folders = {
        "checkpoint_uri": f"{root}/checkpoints/{name}/{identity}",
        "cache_uri": f"{root}/caches/{name}",
    }
    taken = inspect.signature(stage.run).parameters
    return {argument: uri for argument, uri in folders.items() if argument in taken}


def _compute(
    stage: Stage,
    config: Any,
    inputs: Any,
    by_name: Mapping[str, Output],
    outputs: Any,
    execution: Any,
    identity: str,
    arguments: Mapping[str, Any],
) -> Metrics:
    name, started = stage_name(stage), time.monotonic()
    for output in by_name.values():
        output.prepare()
    log.info("%s: started (fingerprint %s)", name, identity[:12])
    try:
        metrics = finite(stage.run(config, inputs, outputs, execution, **arguments))
        facts = _facts(stage, config, inputs, identity)
        for output in by_name.values():
            output.commit(facts)
    except BaseException:
        for output in by_name.values():  # half a result is of no use, and takes up the disk
            output.discard()
        raise
    log.info("%s: finished in %.1f s", name, time.monotonic() - started)
    return metrics


def _facts(stage: Stage, config: Any, inputs: Any, identity: str) -> Json:
    """What a result is made from."""
    values = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
    return {
        "stage": stage_name(stage),
        "code_version": code_version(stage, config),
        "config": dataclasses.asdict(config),
        "inputs": {key: value.digest for key, value in values.items() if value},
        "fingerprint": identity,
    }


def finite(metrics: Mapping[str, float]) -> Metrics:
    """The metrics as plain finite floats: JSON and the KFP backend refuse NaN.

    Raises:
        UserError: one is not finite; the figure cannot be trusted.
    """
    values = {name: float(value) for name, value in metrics.items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise UserError(f"metrics not finite: {', '.join(broken)}. The inputs are degenerate.")
    return values


def main(stage: Any, argv: list[str] | None = None) -> None:
    """The command line of a stage: `python -m components.NAME.main`. Ends the process."""
    from macrec.core import stage_command  # which imports this module

    stage_command.main(stage, sys.argv[1:] if argv is None else argv)
