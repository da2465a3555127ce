"""Selects the stages of an earlier run to compute again."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from components.run_form import Form
from pipelines.dag.compiled_dag import Dag
from pipelines.local import run_record

MODES = {
    "from": "compute this stage and all that follow it again",
    "only": "run this stage alone, on what the run has finished, and nothing that follows",
    "force": "compute this stage again; what follows only if its bytes changed",
}
# Returns the checked settings of the rerun from those of the earlier run, for a form.
Given = Callable[[Mapping[str, Any], Form], dict[str, Any]]


class Choice(NamedTuple):
    """The stages to compute again; if both fields are empty, only unfinished ones run."""

    mode: str = ""
    """One of MODES."""
    stage: str = ""


def choice(options: argparse.Namespace) -> Choice:
    """Return the choice that the flags make."""
    for mode in MODES:
        if stage := getattr(options, f"mode_{mode}"):
            return Choice(mode, stage)
    return Choice()


def forced(dag: Dag, chosen: Choice, finished: bool, text: str | None = None) -> dict[str, str]:
    """Return the settings that force the chosen stages to be computed again.

    Args:
        dag: the pipeline.
        chosen: the stages.
        finished: whether the stage finished in the earlier run. With mode `only`, an unfinished
            stage is not forced, so that every later run can reuse its result.
        text: a text that was never used before; the current time if None.

    Raises:
        UserError: if the pipeline has no such stage.
    """
    if not chosen.mode:
        return {}
    stage = dag.checked(chosen.stage)
    if chosen.mode == "only" and not finished:
        return {}
    stages = dag.from_stage(stage) if chosen.mode == "from" else [stage]
    return {f"{name}.force": text or run_record.now() for name in stages}
