"""`macrec stage`: runs one stage, which reads its arguments itself."""

from typing import Annotated

import typer

from components.stages import STAGES, stage_named
from macrec.core import stage_command

app = typer.Typer(add_completion=False, rich_markup_mode=None)


# All arguments after the first one reach the stage unchanged, --help too.
@app.command("stage", context_settings={"allow_interspersed_args": False})
def run_stage(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help=f"One of {', '.join(s.name for s in STAGES)}.")
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGUMENTS",
            help="Arguments of the stage. `macrec stage NAME --help` lists them.",
        ),
    ] = None,
) -> None:
    """Run one stage: macrec stage NAME --help."""
    stage_command.main(stage_named(name), arguments or [])
