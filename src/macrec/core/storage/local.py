"""Local paths and gs:// (`macrec.core.storage.gcs`) behind one interface.

Only what artifacts need: list, read, create-if-absent, upload, download, delete. Data that a
stage computes on is always a local file: a remote one is downloaded first (`fetch`).
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from macrec.core.errors import UserError
from macrec.core.failpoint import failpoint
from macrec.core.shortage import room_for

GCS_PREFIX = "gs://"


class Entry(NamedTuple):
    """One file of a storage, with a checksum of its content."""

    name: str
    bytes: int
    checksum: str


class Object(NamedTuple):
    """One file of a storage, with the time it was written or last used (seconds of the epoch)."""

    name: str
    bytes: int
    modified: float


class Storage(Protocol):
    """A folder of files, on a disk or in a bucket. Names are relative, with forward slashes."""

    uri: str

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every file whose name starts with the prefix, sorted by name."""
        ...

    def names(self, prefix: str = "") -> Sequence[str]:
        """Names of the files that `list` gives; no content is read."""
        ...

    def read(self, name: str) -> bytes | None:
        """The whole content, or None if there is no such file."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Writes a small file atomically unless it exists; True if the content is now ours."""
        ...

    def upload(self, source: Path, name: str) -> None:
        """Makes the local file available under the name; the content must never change again."""
        ...

    def download(self, name: str, target: Path) -> None:
        """Makes the file available at a local path, whose folder exists."""
        ...

    def delete(self, name: str) -> None:
        """Removes the file if it is there."""
        ...

    def objects(self) -> Iterator[Object]:
        """Every file with its age; no content is read."""
        ...

    def modified(self, name: str) -> float | None:
        """When the file was written or last touched; None if there is none."""
        ...

    def touch(self, name: str) -> None:
        """Says that the file is in use: `macrec gc` goes by the time since."""
        ...


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LocalStorage:
    """A folder on a disk. Files are hard links where the file system allows: no byte is copied."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        for name in self.names(prefix):
            path = self.root / name
            yield Entry(name, path.stat().st_size, sha256_file(path))

    def names(self, prefix: str = "") -> Sequence[str]:
        walked = os.walk(self.root, onerror=_unless_gone)
        files = sorted(p for folder, _, names in walked for p in map(Path(folder).joinpath, names))
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
            os.utime(partial)  # its age counts from now
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
        with suppress(PermissionError, FileNotFoundError):  # another user's, or just deleted
            os.utime(self.root / name)

    def modified(self, name: str) -> float | None:
        try:
            return (self.root / name).stat().st_mtime
        except FileNotFoundError:
            return None

    def objects(self) -> Iterator[Object]:
        for name in self.names():
            with suppress(FileNotFoundError):  # a partial file of a run at work
                status = (self.root / name).stat()
                yield Object(name, status.st_size, status.st_mtime)


def _unless_gone(error: OSError) -> None:
    """A run at work deletes folders, such as those of old checkpoints, while they are listed."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def is_remote(uri: str) -> bool:
    """Whether the URI names a bucket rather than a path on this machine."""
    return uri.startswith(GCS_PREFIX)


def open_storage(uri: str) -> Storage:
    """The storage at a local folder or at gs://bucket/prefix; it need not exist yet."""
    if is_remote(uri):
        bucket, _, prefix = uri.removeprefix(GCS_PREFIX).partition("/")
        if not bucket:
            raise UserError(f"{uri}: names no bucket. Write gs://BUCKET/FOLDER.")
        try:
            from macrec.core.storage.gcs import GcsStorage
        except ImportError as error:
            raise UserError("gs:// paths need the package google-cloud-storage.") from error
        return GcsStorage(bucket, prefix.strip("/"))
    if "://" in uri:
        raise UserError(f"{uri}: only local paths and gs:// are supported.")
    return LocalStorage(Path(uri))


def entries(uri: str) -> list[Entry]:
    """The files at a URI: those below a folder, or the one file (named by its base name).

    Raises:
        UserError: there is nothing at the URI.
    """
    if not is_remote(uri):
        path = Path(uri)
        if path.is_file():
            return [Entry(path.name, path.stat().st_size, sha256_file(path))]
    found = list(open_storage(uri).list())
    if not found and is_remote(uri):
        parent, _, name = uri.rstrip("/").rpartition("/")
        found = [e for e in open_storage(parent).list(name) if e.name == name]
    if not found:
        raise UserError(f"{uri}: no such file, or an empty folder. Check the path.")
    return found


def content_digest(uri: str) -> str:
    """SHA-256 over the sorted (name, size, checksum) of the files: new data, new digest."""
    digest = hashlib.sha256()
    for entry in sorted(entries(uri)):
        digest.update(f"{entry.name}\0{entry.bytes}\0{entry.checksum}\n".encode())
    return digest.hexdigest()


def fetch(uri: str, cache: Path) -> Path:
    """A local path with the content of the URI; a remote one is downloaded below `cache`."""
    if not is_remote(uri):
        path = Path(uri)
        if not path.exists():
            raise UserError(f"{uri}: no such file or folder. Check the path.")
        return path
    found = entries(uri)
    name = PurePosixPath(uri.rstrip("/")).name
    single = len(found) == 1 and found[0].name == name
    storage = open_storage(uri.rstrip("/").rpartition("/")[0] if single else uri)
    version = "".join(f"{entry.name}{entry.checksum}" for entry in found)
    folder = cache / hashlib.sha256(f"{uri}\0{version}".encode()).hexdigest()[:16]
    for entry in found:
        target = folder / entry.name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{uri}: the object name {entry.name!r} leaves its folder. Rename it.")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.is_file() and target.stat().st_size == entry.bytes):
            storage.download(entry.name, target)
    return folder / name if single else folder
