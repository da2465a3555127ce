"""OUT/run.json: the arguments and the progress of a local run, for `rerun` and `status`."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from components.run_form import form_arguments
from macrec.core.artifact import Json, write_atomically
from macrec.core.errors import UserError
from macrec.core.task_note import TASK
from pipelines.dag.compiled_dag import Dag
from pipelines.local.pipeline_runner import PIPELINE_YAML, StageFailed

FILE = "run.json"
RUNS = "runs"
_LOCK = ".run.lock"


class Task(NamedTuple):
    """One stage of a run, finished or not."""

    stage: str
    folder: Path
    content: Json
    """Contents of the task note: started; after the end also ended, code, and reused or error."""

    @property
    def finished(self) -> bool:
        """Return whether the task ended successfully, so that its outputs exist."""
        return self.content.get("code") == 0


class Record(NamedTuple):
    """A run in an output folder, as recorded in run.json."""

    out: Path
    pipeline: str
    """recommender or encode."""
    arguments: dict[str, Any]
    """The values of the run form; they omit run_store if it is OUT/store."""
    started: str
    ended: str | None
    code: int | None
    failed: str | None
    """The stage whose failure ended the run."""
    after: str
    """The newest folder of runs/ before this run."""
    only: list[str]
    """Folders in runs/ of single stages that were rerun later."""

    def tasks(self, dag: Dag) -> dict[str, Task]:
        """Return the tasks that have started, by stage.

        A stage that was rerun alone replaces the earlier task. The tasks that follow it used the
        earlier result, so they are left out.
        """
        runs = self.out / RUNS
        later = (
            sorted(p.name for p in runs.iterdir() if p.name > self.after) if runs.is_dir() else []
        )
        main = [name for name in later if name not in self.only][:1]
        found: dict[str, Task] = {}
        for name in [*main, *self.only]:
            for path in sorted((runs / name).glob(f"*/{TASK}")):
                content = json.loads(path.read_bytes())
                stage = str(content["stage"])
                if name in self.only:
                    for follower in dag.from_stage(stage):
                        found.pop(follower, None)
                found[stage] = Task(stage, path.parent, content)
        return found


@contextmanager
def record_run(out: Path, pipeline: str, values: Mapping[str, Any]) -> Iterator[None]:
    """Record a run's settings before the block and its end after the block.

    Raises:
        UserError: if another run is active in the folder.
    """
    given = without_own_store(out, form_arguments(values))
    with lock_folder(out):
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


def without_own_store(out: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without run_store if it is the default, OUT/store.

    The record omits it, because the output folder may be moved.
    """
    own = str((out / "store").resolve())
    return {n: v for n, v in arguments.items() if not (n == "run_store" and str(v) == own)}


@contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Lock the folder for one run; the system releases the lock when the process ends.

    Raises:
        UserError: if another run holds the lock.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{out}: another run is using this folder. Wait until it ends (`macrec status "
                f"{out}`), or give another folder."
            ) from error
        yield


def is_locked(out: Path) -> bool:
    """Return whether a run holds the lock of the folder."""
    try:
        with (out / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file: an older version made the folder, or it is read-only
        return False
    return False


def write(record: Record) -> None:
    """Write OUT/run.json."""
    content = record._asdict()
    del content["out"]
    write_atomically(record.out / FILE, (json.dumps(content, indent=1) + "\n").encode())


def read(out: Path) -> Record:
    """Read the record of the last run that was started in an output folder.

    Raises:
        UserError: if there is no record or it is damaged.
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


def current_dag(record: Record) -> Dag:
    """Return the pipeline of a run, as the current code defines it."""
    if record.pipeline == "recommender":
        return Dag(PIPELINE_YAML.read_text())
    from pipelines.dag.compile import compile_pipeline

    return Dag(compile_pipeline(name=record.pipeline))


def now() -> str:
    """Return the current time in UTC, in ISO format with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_output_folder(run: str) -> bool:
    """Return whether a RUN argument is a local output folder, not a KFP run id."""
    return Path(run).is_dir()
