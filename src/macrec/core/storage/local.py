"""A folder on a disk as a storage backend."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from macrec.core.failpoint import failpoint
from macrec.core.shortage import room_for
from macrec.core.storage.backend import Entry, Object


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk_files(folder: Path, *, follow_links: bool) -> Iterator[Path]:
    """Yield the paths below a folder that are no folders, in no particular order.

    Args:
        folder: the folder.
        follow_links: whether linked folders are entered. A link to a folder that contains it is
            not.
    """
    within = {folder: {os.path.realpath(folder)}}
    for top, folders, names in os.walk(folder, onerror=_unless_gone, followlinks=follow_links):
        place = Path(top)
        yield from map(place.joinpath, names)
        if not follow_links:
            continue
        outer = within.pop(place)
        for name in list(folders):
            real = os.path.realpath(place / name)
            if real in outer:
                folders.remove(name)
            else:
                within[place / name] = {*outer, real}


class LocalStorage:
    """A folder on a disk. Files are hard links, not copies, where the file system allows it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        # Data may be behind a linked folder; what is stored here never is.
        for name in self._names(prefix, follow_links=True):
            path = self.root / name
            yield Entry(name, path.stat().st_size, sha256_file(path))

    def names(self, prefix: str = "") -> Sequence[str]:
        return self._names(prefix, follow_links=False)

    def _names(self, prefix: str, *, follow_links: bool) -> Sequence[str]:
        files = sorted(walk_files(self.root, follow_links=follow_links))
        names = (path.relative_to(self.root).as_posix() for path in files if path.is_file())
        return [name for name in names if name.startswith(prefix)]

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        return (self.root / name).is_file()

    def create(self, name: str, content: bytes) -> bool:
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with room_for(target, len(content)):
                partial.write_bytes(content)
            failpoint("object not yet named")
            os.link(partial, target)  # unlike a rename, a link refuses to replace
            return True
        except FileExistsError:
            return target.read_bytes() == content
        finally:
            partial.unlink(missing_ok=True)

    def upload(self, source: Path, name: str) -> None:
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            self.touch(name)
            return
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with room_for(target, source.stat().st_size):
                _link_or_copy(source, partial)
            os.utime(partial)  # `macrec gc` counts its age from now
            partial.chmod(0o444)  # a shared link must not be edited in place
            failpoint("object not yet named")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def download(self, name: str, target: Path) -> None:
        target.unlink(missing_ok=True)
        with room_for(target, (self.root / name).stat().st_size):
            _link_or_copy(self.root / name, target)

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def touch(self, name: str) -> None:
        with suppress(PermissionError, FileNotFoundError):  # owned by another user, or deleted
            os.utime(self.root / name)

    def modified(self, name: str) -> float | None:
        try:
            return (self.root / name).stat().st_mtime
        except FileNotFoundError:
            return None

    def objects(self) -> Iterator[Object]:
        for name in self.names():
            with suppress(FileNotFoundError):  # an active run deletes its partial files
                status = (self.root / name).stat()
                yield Object(name, status.st_size, status.st_mtime)


def _unless_gone(error: OSError) -> None:
    """Raise the error unless the folder no longer exists.

    An active run may delete folders, such as those of old checkpoints, while they are listed.
    """
    if not isinstance(error, FileNotFoundError):
        raise error


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
