"""What the benchmarks share: flags, result lines with their origin, and runs of single stages.

Every script runs from the root of the repository, as `PYTHONPATH=src:. python
benchmarks/FOLDER/NAME.py`. It prints its results as JSON lines or writes them to a JSON file. Each
result contains the date, the commit and the device. Log lines are for people; no script reads its
figures from them.
"""

import argparse
import importlib.metadata
import json
import logging
import multiprocessing
import os
import platform
import resource
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import pyarrow as pa

from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import UserError
from macrec.core.executor import execute
from macrec.core.settings import fields
from macrec.core.stage import Stage
from macrec.core.stage_command import split_assignment
from macrec.core.store import ArtifactStore

ROOT: Final = Path(__file__).parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
CODE: Final = ("src", "components", "pipelines", "benchmarks")
"""Folders whose uncommitted changes make a result irreproducible."""
ResultT = TypeVar("ResultT")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows the docstring of the script as it is."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_settings_flag(parser: argparse.ArgumentParser, stage: str, flag: str = "--set") -> None:
    """Add a flag for settings of a stage: NAME=VALUE, several at a time or repeated."""
    parser.add_argument(
        flag,
        nargs="*",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help=f"settings of the stage {stage}",
    )


def add_threads_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag --threads."""
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads; 0 keeps the default of PyTorch"
    )


def read_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Return the settings in NAME=VALUE texts; a later one overrides an earlier one.

    Raises:
        UserError: a text has no equals sign.
    """
    return dict(map(split_assignment, assignments))


def start_logging() -> None:
    """Log with the time to the standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


def describe_origin(device: str = "cpu", threads: int = 0) -> dict[str, Any]:
    """Return the device, the threads, library versions, the date and the commit.

    MACREC_COMMIT overrides the commit, for a copy of the tree without .git.

    Args:
        device: device of the measurement.
        threads: CPU threads of the measurement; 0 reads the number from torch.
    """
    import torch  # not at the head: some scripts measure their memory without torch

    gpu = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if gpu else f"{platform.machine()} CPU",
        "threads": threads or torch.get_num_threads(),
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": os.environ.get("MACREC_COMMIT") or git("rev-parse", "--short", "HEAD"),
        "clean": is_clean(),
    }


def is_clean() -> bool | None:
    """Return whether the code equals that of the commit, or None without git."""
    if not git("rev-parse", "HEAD"):
        return None
    return not git("status", "--porcelain", "--", *CODE)


def git(*arguments: str) -> str:
    """Return the output of a git command, or an empty string if it fails."""
    if not (ROOT / ".git").exists():  # otherwise git would search the parent folders
        return ""
    command = ["git", *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def print_line(line: Mapping[str, Any]) -> None:
    """Print a result as one JSON line."""
    print(json.dumps(line), flush=True)


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a result to a file of JSON lines."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file of JSON lines; a missing file has none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


def peak_memory_mb() -> int:
    """Return the peak resident memory of this process in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def run_in_new_process(function: Callable[..., ResultT], *arguments: Any) -> ResultT:
    """Call a function in a new process, whose memory is that of the call alone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


class StageRun(NamedTuple):
    """The result of one stage."""

    metrics: dict[str, float]
    folder: Path

    def artifact(self, name: str) -> Artifact:
        """Return an output of the stage."""
        return Artifact.open(self.folder / name)


def run_stage(
    stage: Stage,
    settings: Any,
    inputs: Any,
    folder: Path,
    execution: Any,
    store: Path | None = None,
) -> StageRun:
    """Run a stage, each of its outputs in its own folder below `folder`.

    Args:
        stage: the stage.
        settings: instance of its Settings.
        inputs: instance of its Inputs.
        folder: folder for the outputs.
        execution: instance of its Execution.
        store: artifact store, from which results are reused and interrupted runs resume.
    """
    outputs = stage.outputs(**{p.name: p.kind(folder / p.name) for p in fields(stage.outputs)})
    artifact_store = ArtifactStore(str(store)) if store else None
    result = execute(stage, settings, inputs, outputs, execution, store=artifact_store)
    return StageRun(result.metrics, folder)


def write_dataset(
    path: Path, schema: pa.Schema, columns: Iterable[Any], **metadata: Any
) -> Artifact:
    """Write an artifact with the given columns, in the order of the schema."""
    with new_dataset(path, schema, **metadata) as write:
        write(pa.table(list(columns), schema=schema))
    return Artifact.open(path)


@contextmanager
def new_dataset(
    path: Path, schema: pa.Schema, **metadata: Any
) -> Iterator[Callable[[pa.Table], None]]:
    """Commit an artifact at the end of the block; yield the function that writes rows to it."""
    output = DatasetOutput(path)
    output.prepare()
    with output.dataset(schema) as out:
        yield out.write
    output.metadata = metadata
    output.commit({"stage": "benchmark", "config": {}})


def latest_artifact(run: Path, stage: str, name: str) -> Artifact:
    """Return an artifact of the latest run in the output folder of `macrec run`.

    Raises:
        UserError: no run there has the artifact.
    """
    folders = sorted(run.glob(f"runs/*/{stage}/{name}"))
    if not folders:
        raise UserError(f"{run}: there is no runs/*/{stage}/{name}. Give the --out of a run.")
    return Artifact.open(folders[-1])
