"""The commands that start runs on Kubeflow Pipelines."""

from typing import Annotated

import typer

from pipelines.cli.shared_options import ClusterStartOptions, RunOptions, WaitOption
from pipelines.cluster.schedule import NAME, explain, schedule
from pipelines.cluster.submit import submit


def submit_run(
    *,
    run_name: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Name of the run in the UI. Default: the name of the pipeline, and the time.",
        ),
    ] = "",
    wait: WaitOption = False,
    settings: RunOptions,
    cluster: ClusterStartOptions,
) -> None:
    """Start a run on Kubeflow Pipelines.

    Data, models and the store must be gs:// addresses; a model may also be hub:NAME@REVISION.
    """
    submit(settings.resolve(), cluster, run_name=run_name, should_wait=wait)


def schedule_runs(
    *,
    cron: Annotated[
        str,
        typer.Argument(
            metavar="CRON",
            help='Six fields, seconds first, in UTC: "0 0 3 * * MON" is every Monday at 03:00:00.',
        ),
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the schedule.")] = NAME,
    only_explain: Annotated[
        bool, typer.Option("--explain", help="Only check CRON and print the next times.")
    ] = False,
    settings: RunOptions,
    cluster: ClusterStartOptions,
) -> None:
    """Create or replace a schedule of runs on Kubeflow Pipelines.

    A schedule that already has these settings is left unchanged.
    """
    normal = explain(cron)
    if not only_explain:
        schedule(normal, settings.resolve(), cluster, name=name)
