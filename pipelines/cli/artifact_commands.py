"""The commands that read or remove what runs have stored."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.compare import as_json, compare_runs, lines
from pipelines.cli.inspect_artifact import describe
from pipelines.cli.shared_options import JsonOption
from pipelines.local.gc import AGE, collect


def inspect_path(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Artifact, or a folder that contains artifacts.")
    ],
) -> None:
    """Show an artifact: its provenance, columns and first rows.

    All files are checked against their digests first.
    """
    for line in describe(path):
        print(line)


def compare_sides(
    run_a: Annotated[
        str,
        typer.Argument(
            metavar="RUN_A",
            help="Output folder of a `macrec run`, or several, separated by commas.",
        ),
    ],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="The same for the other side.")],
    system: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="System whose lists are compared, such as fused. `text,fused` compares text of "
            "A with fused of B.",
        ),
    ] = "fused",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Metric such as ndcg_10. Repeat it for several. Default: all."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Test whether one run is better than another."""
    comparison = compare_runs(run_a, run_b, system, metric or [])
    print(as_json(comparison) if json else "\n".join(lines(comparison)))


def collect_garbage(
    place: Annotated[
        str,
        typer.Argument(
            metavar="STORE_OR_OUT", help="Artifact store, or the output folder of a run."
        ),
    ],
    older_than: Annotated[
        str,
        typer.Option(
            metavar="AGE",
            help="Files written or used within this age are kept, such as 30d or 12h.",
        ),
    ] = AGE,
    unused: Annotated[
        bool,
        typer.Option(
            "--unused",
            help="Also delete finished work that no run has used within that age: records, cached "
            "vectors, and all runs of OUT except the last.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be deleted.")
    ] = False,
) -> None:
    """Delete files of a store or output folder that no run refers to."""
    collect(place, older_than=older_than, unused=unused, dry_run=dry_run)
