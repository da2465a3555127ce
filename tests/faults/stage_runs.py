"""Every stage of a small run as a call of its own, which may be killed and made again elsewhere."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from macrec.core.artifact import MANIFEST, Artifact
from macrec.core.errors import UserError
from macrec.core.stage_command import METRICS
from macrec.core.task_note import TASK
from pipelines.local import pipeline_runner
from pipelines.local.gc import PARTIAL

ROOT = Path(__file__).parent.parent.parent
SMOKE = ROOT / "configs" / "smoke.yaml"
CALLS = "calls.json"
NOTES = (TASK, "executor_output.json")
"""Files that say when something was made."""
# Neither changes a result. Whatever can be resumed is saved so often that a killed run has some.
SETTINGS = {
    "embed_image.max_bad_images": 0.05,
    "embed_text.checkpoint_seconds": 0.1,
    "embed_image.checkpoint_seconds": 0.1,
    "quantize.checkpoint_seconds": 0.1,
    "train.checkpoint_seconds": 0.1,
}


def run_flags(sample_flags: Sequence[object], out: Path) -> list[str]:
    """The arguments of `macrec` for the small run."""
    assignments = [f"{name}={value}" for name, value in SETTINGS.items()]
    sets = [part for assignment in assignments for part in ("--set", assignment)]
    return [str(a) for a in ("run", "--out", out, "--config", SMOKE, *sets, *sample_flags)]


class StageCall(NamedTuple):
    """How a run has called a stage."""

    stage: str
    command: list[str]
    folder: Path
    """Its outputs."""
    store: Path
    seconds: float

    def start(self, folder: Path, store: Path) -> subprocess.Popen[str]:
        """The same call with outputs and store elsewhere, in a process group of its own."""
        moved = {str(self.folder): str(folder), str(self.store): str(store)}
        command = [sys.executable, *self.command[1:]]
        for old, new in moved.items():
            command = [part.replace(old, new) for part in command]
        return subprocess.Popen(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def kill(self, folder: Path, store: Path, after: float) -> bool:
        """Starts it and kills it after so many seconds; whether it was still at work."""
        with self.start(folder, store) as running:
            try:
                running.wait(after)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
            assert running.stderr is not None
            told = running.stderr.read()
        assert running.returncode in (0, -signal.SIGKILL), told
        return running.returncode != 0

    def finish(self, folder: Path, store: Path) -> str:
        """Runs it to its end; what it has logged."""
        with self.start(folder, store) as running:
            assert running.stderr is not None
            told = running.stderr.read()
        assert running.returncode == 0, told
        return told


def recorded_run(
    sample_flags: Sequence[object], out: Path, calls: Path
) -> subprocess.CompletedProcess[str]:
    """The small run in a process of its own, which writes how it has called its stages."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.faults.stage_runs",
            str(calls),
            *run_flags(sample_flags, out),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def read_calls(path: Path) -> dict[str, StageCall]:
    """The calls of the stages of a run that was recorded, in their order."""
    calls = [StageCall(**call) for call in json.loads(path.read_text())]
    return {
        call.stage: call._replace(folder=Path(call.folder), store=Path(call.store))
        for call in calls
    }


def record(path: Path, arguments: list[str]) -> None:
    """Runs `macrec` in this process and writes how it has called its stages."""
    from pipelines.cli import main

    calls: list[StageCall] = []
    out = Path(arguments[arguments.index("--out") + 1])
    original = pipeline_runner.in_process

    def launch(command: Sequence[str], environment: Mapping[str, str]) -> int:
        call = json.loads(command[command.index("--executor-input") + 1])
        folder = Path(call["outputs"]["outputFile"]).parent
        started = time.monotonic()
        code = original(command, environment)
        seconds = time.monotonic() - started
        calls.append(StageCall(command[3], list(command), folder, out / "store", seconds))
        return code

    pipeline_runner.in_process = launch
    try:
        main.main(arguments)
    finally:
        path.write_text(json.dumps([call._asdict() for call in calls], default=str))


def digests(folder: Path) -> dict[str, str]:
    """The bytes of everything below a folder, but notes of when it was made and partial files."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not (path.name in NOTES or METRICS in path.parts or PARTIAL.fullmatch(path.name))
    }


def readable(folder: Path) -> dict[str, str]:
    """Digests of the artifacts below a folder that can be read as a whole."""
    found: dict[str, str] = {}
    for manifest in sorted(folder.rglob(MANIFEST)):
        try:
            artifact = Artifact.open(manifest.parent).verify()
        except UserError:
            continue
        found[str(manifest.parent.relative_to(folder))] = artifact.digest
    return found


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2:])
