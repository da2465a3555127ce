"""The `macrec` command: the table of its subcommands, and its exit codes.

The module of a subcommand is imported only when the subcommand is used. So `macrec --help` answers
at once, and every module imports at its head.
"""

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command, get_group

from macrec.core.errors import EXIT_TRY_AGAIN, EXIT_USER_ERROR, TryAgain, UserError
from macrec.core.progress import log
from pipelines.cli.option_groups import Command, expand

EXIT_READER_GONE: Final = 141
"""The shell's exit code for a process that SIGPIPE ended."""


class Entry(NamedTuple):
    """A subcommand that is not yet imported."""

    module: str
    """Name of the module in this package."""
    target: str
    """Name of the function or of the typer app in the module."""
    help: str


# A title, then the subcommands below it in `macrec --help`.
SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "Runs": {
        "run": Entry("run_commands", "run_pipeline", "Run the whole pipeline on this machine."),
        "validate": Entry(
            "run_commands",
            "validate",
            "Check the data, images, encoders and vectors of a run, and list all problems.",
        ),
        "encode-items": Entry(
            "run_commands", "encode_items", "Assign semantic IDs to new items, and keep all others."
        ),
        "recommend": Entry(
            "run_commands", "recommend", "Recommend items for users from a finished run."
        ),
        "rerun": Entry(
            "run_commands", "rerun_run", "Run an earlier run, or one stage of it, again."
        ),
        "status": Entry("run_commands", "show_status", "Show the progress of a run by stage."),
    },
    "Kubeflow Pipelines": {
        "submit": Entry("cluster_commands", "submit_run", "Start a run on Kubeflow Pipelines."),
        "schedule": Entry(
            "cluster_commands",
            "schedule_runs",
            "Create or replace a schedule of runs on Kubeflow Pipelines.",
        ),
    },
    "Comparisons": {
        "compare": Entry(
            "artifact_commands", "compare_sides", "Test whether one run is better than another."
        ),
        "bench": Entry(
            "bench_commands",
            "bench",
            "Compare systems, MACRec and others, on one data set with the same protocol.",
        ),
        "tune": Entry(
            "bench_commands", "tune", "Search the settings of each system on validation users."
        ),
    },
    "Settings, stages and artifacts": {
        "settings": Entry(
            "settings_commands",
            "show_settings",
            "List the settings with their defaults and ranges.",
        ),
        "stage": Entry("stage_passthrough", "app", "Run one stage: macrec stage NAME --help."),
        "inspect": Entry(
            "artifact_commands",
            "inspect_path",
            "Show an artifact: its provenance, columns and first rows.",
        ),
        "gc": Entry(
            "artifact_commands",
            "collect_garbage",
            "Delete files of a store or output folder that no run refers to.",
        ),
        "sample": Entry(
            "sample_commands",
            "make_sample",
            "Make the sample catalogue, whose best recommendations are known.",
        ),
    },
    "Pipelines and images": {
        "compile": Entry("build_commands", "write_pipeline", "Compile a pipeline to a YAML file."),
        "lint": Entry(
            "build_commands", "lint", "Check a compiled pipeline, and list all problems."
        ),
        "images": Entry(
            "build_commands", "images_app", "Build, push and lock the container images."
        ),
        "contract": Entry(
            "build_commands",
            "write_contract",
            "Write data_contract.md, the description of all artifacts.",
        ),
    },
}
COMMANDS: Final = {n: entry for section in SECTIONS.values() for n, entry in section.items()}


class CommandTable(TyperGroup):
    """A group of commands that imports a command when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command and return it."""
        if cmd_name in COMMANDS:
            return load(cmd_name)
        close = difflib.get_close_matches(cmd_name, COMMANDS, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return ctx.fail(f"there is no command {cmd_name}.{hint}")

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the help of each command, without an import."""
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in section.items()])


def load(name: str) -> Any:
    """Import a subcommand and return it as typer runs it."""
    entry = COMMANDS[name]
    target = getattr(importlib.import_module(f"pipelines.cli.{entry.module}"), entry.target)
    if isinstance(target, typer.Typer):
        return get_command(target)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, cls=Command)(expand(target))
    return get_command(app)


app: Final = typer.Typer(
    cls=CommandTable,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def macrec() -> None:
    """Generative recommendation with cross-modal semantic IDs. See `macrec COMMAND --help`."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit code.

    The codes are 0, 2 (user error), 75 (try again), 141 (the reader of the output has gone) and
    143 (preempted).
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    sys.exit(run_command(sys.argv[1:] if argv is None else argv))


def run_command(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; errors without an exit code propagate."""
    # typer's own `main` would hide the tracebacks of some errors, and end with 1 at a closed pipe.
    group = get_group(app)
    try:
        with group.make_context("macrec", list(arguments)) as context:
            group.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as ended:  # after --help
        return ended.exit_code
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else " ".join(["macrec", *arguments[:1]])
        message = error.format_message().rstrip(".")
        log.error("error: %s. See `%s --help`.", message, command)
        return EXIT_USER_ERROR
    except UserError as error:
        log.error("error: %s", error)
        return EXIT_USER_ERROR
    except TryAgain as error:
        log.error("try again: %s", error)
        return EXIT_TRY_AGAIN
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_READER_GONE


if __name__ == "__main__":
    main()
