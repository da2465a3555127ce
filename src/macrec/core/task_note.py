"""Record how a task of a pipeline began and ended, in a file beside its executor output."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from macrec.core.artifact import Json, write_atomically
from macrec.core.errors import EXIT_TRY_AGAIN, EXIT_USER_ERROR, TryAgain, UserError

TASK = "task.json"
"""Name of the file, in the folder of the executor output. `macrec status` reads it."""


@contextmanager
def record_task(stage: str, executor_output: Path) -> Iterator[Json]:
    """Record the block's start, end, exit code and error, and entries that it adds to the dict."""
    path = executor_output.with_name(TASK)
    path.parent.mkdir(parents=True, exist_ok=True)
    note: Json = {"stage": stage, "started": _now()}
    write_atomically(path, json.dumps(note).encode())
    note |= {"code": 1, "error": ""}
    try:
        yield note
        note["code"] = 0
    except UserError as error:
        note |= {"code": EXIT_USER_ERROR, "error": str(error)}
        raise
    except TryAgain as error:
        note |= {"code": EXIT_TRY_AGAIN, "error": str(error)}
        raise
    except SystemExit as ended:
        note["code"] = ended.code
        raise
    except BaseException as error:
        note["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        write_atomically(path, json.dumps(note | {"ended": _now()}).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
