"""The command that documents all settings."""

import json
from typing import Annotated

import typer

from components.stages import stage_named
from pipelines.cli import settings_page


def show_settings(
    stage: Annotated[
        str, typer.Argument(metavar="STAGE", help="Stage whose settings are listed.")
    ] = "",
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            help="Print the JSON schema of a config file. An editor can complete and check config "
            "files with it.",
        ),
    ] = False,
) -> None:
    """List the settings with their defaults and ranges.

    Without STAGE, the fields of the run form and the stages are listed.
    """
    if schema:
        print(json.dumps(settings_page.schema(), indent=1))
    elif stage:
        print("\n".join(settings_page.list_settings(stage_named(stage))))
    else:
        print("\n".join(settings_page.list_fields()))
