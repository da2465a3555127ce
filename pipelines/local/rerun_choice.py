"""Selects the stages of an earlier run to compute again."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from components.run_form import Form
from macrec.core.errors import check
from pipelines.dag.compiled_dag import Dag
from pipelines.local import run_record

MODES = {
    "from": "Compute this stage and all following stages again.",
    "only": "Run only this stage, on the finished artifacts of the run.",
    "force": "Compute this stage again, and the following stages only if its result changes.",
}
"""Each way to choose a stage, and what it does."""
# Returns the checked settings of the rerun from those of the earlier run, for a form.
Given = Callable[[Mapping[str, Any], Form], dict[str, Any]]


class Choice(NamedTuple):
    """The stages to compute again; if both fields are empty, only unfinished ones run."""

    mode: str = ""
    """One of MODES."""
    stage: str = ""


def choose(stages: Mapping[str, str]) -> Choice:
    """Return the choice of the one mode for which a stage is given.

    Args:
        stages: name of a stage by mode; empty for the modes that are not used.

    Raises:
        UserError: if there are stages for several modes.
    """
    choices = [Choice(mode, stage) for mode, stage in stages.items() if stage]
    flags = " or ".join(f"--{choice.mode} {choice.stage}" for choice in choices)
    check(len(choices) < 2, f"give only one of {flags}.")
    return choices[0] if choices else Choice()


def force_settings(
    dag: Dag, chosen: Choice, finished: bool, text: str | None = None
) -> dict[str, str]:
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
