"""Which stages of an earlier run are computed again."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from macrec.core.parameters import Parameter
from pipelines.dag.compiled_dag import Dag
from pipelines.dag.run_form import ALL_PREFIXES, encode_parameters, run_parameters
from pipelines.local import run_record

MODES = {
    "from": "compute this stage and all that follow it again",
    "only": "run this stage alone, on what the run has finished, and nothing that follows",
    "force": "compute this stage again; what follows only if its bytes changed",
}
# Run parameters from those of the earlier run and the ones that there are.
Given = Callable[[Mapping[str, Any], Mapping[str, Parameter]], dict[str, Any]]


class Choice(NamedTuple):
    """Which stages are to be computed again; both empty: those that have not finished."""

    mode: str = ""
    """One of MODES."""
    stage: str = ""


def choice(options: argparse.Namespace) -> Choice:
    """What the flags say."""
    for mode in MODES:
        if stage := getattr(options, f"mode_{mode}"):
            return Choice(mode, stage)
    return Choice()


def known_parameters(pipeline: str) -> Mapping[str, Parameter]:
    """The run parameters of a pipeline."""
    return encode_parameters() if pipeline == "encode" else run_parameters()


def forced(dag: Dag, chosen: Choice, finished: bool, text: str | None = None) -> dict[str, str]:
    """The run parameters that make the chosen stages compute again.

    Args:
        dag: the pipeline.
        chosen: the stages.
        finished: whether the stage has finished in the earlier run; one that has not need not be
            forced, and its result is then found by every later run.
        text: any text that was never used before; the time if None.

    Raises:
        UserError: there is no such stage.
    """
    if not chosen.mode:
        return {}
    stage = dag.checked(chosen.stage)
    if chosen.mode == "only" and not finished:
        return {}
    stages = dag.from_stage(stage) if chosen.mode == "from" else [stage]
    return {f"{ALL_PREFIXES[name]}force": text or run_record.now() for name in stages}
