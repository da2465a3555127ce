"""`macrec rerun`: what is computed again, in a local output folder or on a cluster."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from macrec.core.errors import check
from macrec.core.parameters import Parameter
from pipelines.dag.compiled_dag import Dag
from pipelines.dag.run_form import STAGES, encode_parameters, run_parameters
from pipelines.local import containers, run_record

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


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What is rerun, and which of its stages."""
    parser.add_argument("run", metavar="RUN", help="output folder of a local run, or a KFP run id")
    containers.add_flags(parser)
    group = parser.add_mutually_exclusive_group()
    for mode, text in MODES.items():
        group.add_argument(f"--{mode}", dest=f"mode_{mode}", metavar="STAGE", help=text)
    parser.add_argument(
        "--clone",
        action="store_true",
        help="on a cluster: a new run where a retry would do, with a new look at the data",
    )


def choice(options: argparse.Namespace) -> Choice:
    """What the flags say."""
    for mode in MODES:
        if stage := getattr(options, f"mode_{mode}"):
            return Choice(mode, stage)
    return Choice()


def is_local(run: str) -> bool:
    """Whether a RUN of the command line is an output folder of this machine."""
    return Path(run).is_dir()


def rerun(options: argparse.Namespace, given: Given) -> None:
    """Runs an earlier run again."""
    if is_local(options.run):
        from pipelines.local.rerun_local import rerun_local

        rerun_local(Path(options.run), choice(options), given, containers.given(options))
    else:
        from pipelines.cluster import client, rerun_backend

        check(options.containers is None, "--containers: for an output folder of this machine.")
        backend = client.connected(options, options.run)
        rerun_backend.rerun_backend(backend, options, choice(options), given)


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
    return {f"{STAGES[name]}force": text or run_record.now() for name in stages}
