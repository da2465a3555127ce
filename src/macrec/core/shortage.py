"""Errors for insufficient disk or memory: they state where, how much, and what to change.

Both end with exit code 2, because a retry with the same machine and settings would fail again.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from macrec.core.errors import UserError
from macrec.core.settings import Parameter

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# Messages of libraries that raise no specific exception type.
NO_ROOM_TEXTS = ("no space left on device", "storagefull")
NO_MEMORY_TEXTS = ("can't allocate memory", "out of memory", "bad_alloc", "bad allocation")


@contextmanager
def room_for(path: Path, needed: int = 0) -> Iterator[None]:
    """Convert a full disk into a `UserError` that names the file, while the block writes it.

    Args:
        path: the file.
        needed: number of bytes that are being written; 0 if unknown.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not _is_disk(error):
            raise
        wanted = f"{needed:,} bytes to write, " if needed else ""
        raise UserError(
            f"{path}: no space left on the disk (ENOSPC): {wanted}{_free(path)}. "
            "Make room or name another place, then run it again; what is finished is kept."
        ) from error


@contextmanager
def explain_shortage(
    stage: str, settings: Sequence[tuple[Parameter, object]], folders: list[Path]
) -> Iterator[None]:
    """Convert a lack of disk or memory in the block into a `UserError` that proposes a remedy.

    Args:
        stage: name of the stage that the block runs.
        settings: parameters of the stage and their values.
        folders: folders that the stage writes to, besides the one for temporary files.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if _is_memory(error):
            raise UserError(_memory_message(stage, settings, error)) from error
        if _is_disk(error):
            places = [*folders, Path(tempfile.gettempdir())]
            free = "; ".join(f"{place}: {_free(place)}" for place in places)
            raise UserError(
                f"{stage}: no space left on a disk (ENOSPC: {_first_line(error)}). {free}. Make "
                "room, or set TMPDIR to a folder on a larger disk."
            ) from error
        raise


def _is_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    return any(text in str(error).lower() for text in NO_ROOM_TEXTS)


def _is_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # Torch's OutOfMemoryError is a RuntimeError. On a CPU torch raises a plain RuntimeError.
    is_cuda = isinstance(error, RuntimeError) and any(
        text in str(error).lower() for text in NO_MEMORY_TEXTS
    )
    return is_cuda or isinstance(error, MemoryError)


def _memory_message(
    stage: str, settings: Sequence[tuple[Parameter, object]], error: Exception
) -> str:
    lower = [
        f"{stage}.{p.name} (now {value}: {' '.join(p.doc.split()).rstrip('.')})"
        for p, value in settings
        if "batch" in p.name.split("_") or p.name == "beams"
    ]
    advice = f"Lower {' or '.join(lower)}, or give" if lower else "Give"
    return (
        f"{stage}: out of memory ({_first_line(error)}). Nothing was committed. "
        f"{advice} the stage more memory."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _free(path: Path) -> str:
    while not path.exists():
        path = path.parent
    files = os.statvfs(path).f_favail
    return f"{shutil.disk_usage(path).free:,} bytes free" + ("" if files else ", no file more")
