"""`macrec gc`: removes unreferenced files from an artifact store, and unfinished outputs of runs.

Files written or used within the age limit are kept, so an active run loses nothing. A stage uploads
its files when it ends, and a file that is already stored counts as used again. If a stage needs a
removed file later, it finds the file missing and computes it again.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from macrec.core.artifact import MANIFEST, UNFINISHED, FolderOutput
from macrec.core.errors import UserError
from macrec.core.storage.backend import Object, Storage
from macrec.core.storage.local import LocalStorage
from macrec.core.storage.uris import is_remote, open_storage
from pipelines.local import id_version, run_record

AGE = "7d"
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
STORE_FOLDERS = ("blobs", "records", "checkpoints", "caches")
PARTIAL = re.compile(r"\..+\.[0-9a-f]{32}")
"""Names of files while they are written (`core.artifact`, `core.storage.local`)."""


class Unused(NamedTuple):
    """A file or folder to remove."""

    kind: str
    name: str
    bytes: int
    remove: Callable[[], bool]
    """Remove it and return True; return False and keep it if it has been used since."""


def collect(
    place: str, *, older_than: str = AGE, unused: bool = False, dry_run: bool = False
) -> None:
    """Remove unreferenced files, and print counts and sizes by kind.

    Args:
        place: path or URI of a store, or path of an output folder.
        older_than: age such as 30d or 12h; files written or used within it are kept.
        unused: whether to include finished work that no run has used within that age.
        dry_run: whether to only print what would be removed.

    Raises:
        UserError: if an argument is invalid, or a record is damaged.
    """
    limit = time.time() - parse_age(older_than)
    counts: dict[str, list[int]] = defaultdict(list)
    for entry in find_unused(place, limit, unused):
        if dry_run or entry.remove():
            counts[entry.kind].append(entry.bytes)
    action = "would remove" if dry_run else "removed"
    for kind, sizes in sorted(counts.items()):
        print(f"{action} {len(sizes):,} {kind} ({sum(sizes):,} bytes)")
    if not counts:
        print(f"nothing to remove that is older than {older_than}")


def parse_age(age: str) -> float:
    """Return the seconds of an age such as 30d or 12h.

    Raises:
        UserError: if the age has another form.
    """
    match = re.fullmatch(r"(\d+)([smhd])", age)
    if match is None:
        raise UserError(f"--older-than {age}: write a number and s, m, h or d, such as 30d.")
    return int(match[1]) * SECONDS[match[2]]


def find_unused(place: str, limit: float, unused: bool = False) -> Iterator[Unused]:
    """Yield what can be removed from a store or an output folder.

    Args:
        place: path or URI of the store, or path of the output folder.
        limit: Unix time; files written or used after it are kept.
        unused: whether to include finished work that no run has used since the limit.

    Raises:
        UserError: if the place is neither a store nor an output folder, or a record is damaged.
    """
    if is_remote(place) or _is_store(Path(place)):
        yield from find_unused_in_store(open_storage(place), limit, unused)
    elif _is_output(Path(place)):
        if _is_store(Path(place) / "store"):
            yield from find_unused_in_store(LocalStorage(Path(place) / "store"), limit, unused)
        yield from find_unused_in_output(Path(place), limit, unused)
    else:
        raise UserError(
            f"{place}: neither an artifact store ({', '.join(STORE_FOLDERS)}) nor the output "
            "folder of a run or a stage. Check the path."
        )
    if not is_remote(place):
        yield from _temporary(limit)


def _is_store(path: Path) -> bool:
    return any((path / name).is_dir() for name in STORE_FOLDERS)


def _is_output(path: Path) -> bool:
    marks = (MANIFEST, UNFINISHED)
    return (path / run_record.FILE).is_file() or any(
        next(path.glob(f"*/{mark}"), None) for mark in marks
    )


def find_unused_in_store(storage: Storage, limit: float, unused: bool) -> Iterator[Unused]:
    """Yield partial files, unreferenced blobs and old checkpoints of a store.

    With `unused`, also yield records and cached vectors that no run has used since the limit.
    """
    # Listed before the records are read: a blob may get its record in between.
    objects = list(storage.objects())
    folders: dict[str, list[Object]] = defaultdict(list)
    for entry in objects:
        folders[entry.name.partition("/")[0]].append(entry)
    kept: set[str] = set()
    for record in [o for o in folders["records"] if not _is_partial(o.name)]:
        if unused and record.modified < limit:
            yield _object(storage, "records", record, limit)
        else:
            kept |= _blobs_of(storage, record.name)
    for entry in objects:
        if _is_partial(entry.name) and entry.modified < limit:
            yield _object(storage, "partial files", entry, limit)
    for blob in folders["blobs"]:
        named = PurePosixPath(blob.name).name in kept or _is_partial(blob.name)
        if not named and blob.modified < limit:
            yield _object(storage, "blobs without a record", blob, limit)
    yield from _checkpoints(storage, folders["checkpoints"], limit)
    if unused:
        for file in folders["caches"]:
            if file.modified < limit and not _is_partial(file.name):
                yield _object(storage, "files of cached vectors", file, limit)


def _is_partial(name: str) -> bool:
    return PARTIAL.fullmatch(PurePosixPath(name).name) is not None


def _object(storage: Storage, kind: str, entry: Object, limit: float) -> Unused:
    def remove() -> bool:
        modified = storage.modified(entry.name)  # read again: a run may have used it meanwhile
        if modified is None or modified >= limit:
            return False
        storage.delete(entry.name)
        return True

    return Unused(kind, entry.name, entry.bytes, remove)


def _blobs_of(storage: Storage, record: str) -> set[str]:
    content = storage.read(record)
    if content is None:  # the record has just been replaced
        return set()
    try:
        outputs = json.loads(content)["outputs"].values()
        return {entry["sha256"] for listed in outputs for entry in listed}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{storage.uri}/{record}: damaged ({error}), so its files are unknown. Nothing that it "
            "may refer to was removed. Delete it, then run this again."
        ) from error


def _checkpoints(storage: Storage, objects: list[Object], limit: float) -> Iterator[Unused]:
    """Yield the checkpoints of every training whose newest checkpoint is older than the limit.

    While the newest one is younger, the older ones are kept as a fallback.
    """
    by_training: dict[str, list[Object]] = defaultdict(list)
    for entry in objects:
        by_training[str(PurePosixPath(entry.name).parent)].append(entry)
    for folder, entries in by_training.items():
        if max(entry.modified for entry in entries) >= limit:
            continue
        # In this order a manifest is deleted before its tensors, so no partial checkpoint is valid.
        for entry in sorted(entries):
            if not _is_partial(entry.name):
                yield _object(storage, "files of checkpoints", entry, limit)
        if isinstance(storage, LocalStorage):
            with suppress(OSError):  # not empty: a training has just saved a checkpoint there
                (storage.root / folder).rmdir()


def find_unused_in_output(out: Path, limit: float, unused: bool) -> Iterator[Unused]:
    """Yield unfinished outputs and partial files; with `unused` all runs except the last."""
    old_runs = list(_old_runs(out, limit)) if unused else []
    for path in old_runs:
        yield _folder("earlier runs", path, limit)
    for path in sorted(out.rglob("*")):
        if (out / "store") in path.parents or any(run in path.parents for run in old_runs):
            continue
        if path.name == UNFINISHED and _newest(path.parent) < limit:
            yield _folder("unfinished outputs", path.parent, limit, held=True)
        elif PARTIAL.fullmatch(path.name) and path.is_file() and path.stat().st_mtime < limit:
            yield _folder("partial files", path, limit)


def _old_runs(out: Path, limit: float) -> Iterator[Path]:
    """Yield folders of runs/ that contain neither the last run nor the last results."""
    runs = sorted((out / run_record.RUNS).glob("*/"))
    if not runs or not (out / run_record.FILE).is_file() or run_record.is_locked(out):
        return
    named = set(run_record.read(out).only) | {runs[-1].name}
    if (out / id_version.VERSION).is_file():
        content = json.loads((out / id_version.VERSION).read_bytes())
        named |= {part for path in content["artifacts"].values() for part in Path(path).parts}
    yield from (run for run in runs if run.name not in named and _newest(run) < limit)


def _folder(kind: str, path: Path, limit: float, held: bool = False) -> Unused:
    def remove() -> bool:
        if not path.exists() or _newest(path) >= limit:
            return False
        if not held:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            return True
        try:
            with FolderOutput(path).lock():
                shutil.rmtree(path)
            return True
        except UserError:  # a stage is writing into it
            return False

    size = sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
    return Unused(kind, str(path), size, remove)


def _newest(path: Path) -> float:
    return max(p.lstat().st_mtime for p in [path, *path.rglob("*")])


def _temporary(limit: float) -> Iterator[Unused]:
    """Yield temporary folders that killed processes left behind."""
    for path in sorted(Path(tempfile.gettempdir()).glob("macrec-*/")):
        with suppress(OSError):  # its process has just ended, or it belongs to another user
            if path.stat().st_uid == os.getuid() and _newest(path) < limit:
                yield _folder("temporary folders", path, limit)
