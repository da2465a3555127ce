"""What a local run was asked for and how far it came: OUT/run.json, for `rerun` and `status`."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from macrec.core.artifact import Json, write_atomically
from macrec.core.errors import UserError
from macrec.core.task_note import TASK
from pipelines.dag.compiled_dag import Dag
from pipelines.local.pipeline_runner import PIPELINE_YAML, StageFailed

FILE = "run.json"
RUNS = "runs"
_LOCK = ".run.lock"


class Task(NamedTuple):
    """One stage of a run, as far as it came."""

    stage: str
    folder: Path
    noted: Json
    """started; of a task that has ended also ended, code, reused or error."""

    @property
    def finished(self) -> bool:
        """Whether it has ended well, so that its outputs are there."""
        return self.noted.get("code") == 0


class Record(NamedTuple):
    """A run in an output folder."""

    out: Path
    pipeline: str
    """recommender or encode."""
    arguments: dict[str, Any]
    """The run parameters, without the store where it is OUT/store."""
    started: str
    ended: str | None
    code: int | None
    failed: str | None
    """The stage that ended the run."""
    after: str
    """The newest folder of runs/ before this run."""
    only: list[str]
    """Folders of single stages that were run again later."""

    def tasks(self, dag: Dag) -> dict[str, Task]:
        """The tasks that have begun, by stage.

        A stage that was run again by itself is the later one; what follows it was made from the
        earlier one and does not count.
        """
        runs = self.out / RUNS
        later = (
            sorted(p.name for p in runs.iterdir() if p.name > self.after) if runs.is_dir() else []
        )
        main = [name for name in later if name not in self.only][:1]
        found: dict[str, Task] = {}
        for name in [*main, *self.only]:
            for path in sorted((runs / name).glob(f"*/{TASK}")):
                noted = json.loads(path.read_bytes())
                stage = str(noted["stage"])
                if name in self.only:
                    for follower in dag.from_stage(stage):
                        found.pop(follower, None)
                found[stage] = Task(stage, path.parent, noted)
        return found


@contextmanager
def kept(out: Path, pipeline: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Notes a run's arguments before it begins, and its end after the block.

    Raises:
        UserError: another run is at work in the folder.
    """
    given = {name: value for name, value in arguments.items() if not _own_store(out, name, value)}
    with at_work(out):
        runs = sorted(p.name for p in (out / RUNS).iterdir()) if (out / RUNS).is_dir() else []
        record = Record(out, pipeline, given, now(), None, None, None, runs[-1] if runs else "", [])
        write(record)
        try:
            yield
        except StageFailed as error:
            write(record._replace(ended=now(), code=error.code, failed=error.stage))
            raise
        except BaseException:
            write(record._replace(ended=now(), code=1))
            raise
        write(record._replace(ended=now(), code=0))


def _own_store(out: Path, name: str, value: Any) -> bool:
    """Whether it is the store that a run has by default; its folder may be moved."""
    return name == "store" and str(value) == str((out / "store").resolve())


@contextmanager
def at_work(out: Path) -> Iterator[None]:
    """Holds the folder for one run; the system lets go of it when the process ends.

    Raises:
        UserError: another run holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{out}: another run is at work in this folder. Wait for its end "
                f"(`macrec status {out}`), or give another folder."
            ) from error
        yield


def is_at_work(out: Path) -> bool:
    """Whether a run holds the folder now."""
    try:
        with (out / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file: of an older version, or on a medium that cannot be written
        return False
    return False


def write(record: Record) -> None:
    """Writes OUT/run.json."""
    content = record._asdict()
    del content["out"]
    write_atomically(record.out / FILE, (json.dumps(content, indent=1) + "\n").encode())


def read(out: Path) -> Record:
    """The last run that was begun in an output folder.

    Raises:
        UserError: none was, or its record is damaged.
    """
    path = out / FILE
    try:
        return Record(out=out, **json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise UserError(
            f"{out}: no {FILE} here. Give the output folder of a `macrec run` or `macrec "
            "encode-items`; one of an older version is run again, which reuses what it has stored."
        ) from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}). Run that run again.") from error


def dag_of(record: Record) -> Dag:
    """The pipeline of a run, as the code at hand has it."""
    if record.pipeline == "recommender":
        return Dag(PIPELINE_YAML.read_text())
    from pipelines.dag.compile import compiled

    return Dag(compiled(name=record.pipeline))


def now() -> str:
    """The time, as it is noted."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_output_folder(run: str) -> bool:
    """Return whether a RUN of the command line is an output folder of this machine."""
    return Path(run).is_dir()
