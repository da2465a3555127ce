"""Local paths and gs:// behind one interface.

Only what artifacts need: list, read, create-if-absent, upload, download, delete. Data that a
stage computes on is always a local file: a remote one is downloaded first (`fetch`).
"""

import base64
import gzip
import hashlib
import io
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, wraps
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Protocol

from macrec.errors import TryAgain, UserError
from macrec.failpoint import failpoint
from macrec.progress import log
from macrec.shortage import room_for

GCS_PREFIX = "gs://"
USED = "macrec-used"
"""Metadata of an object in a bucket: when a run has last used it, in seconds of the epoch."""


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


def _translated(method: Callable[..., Any]) -> Callable[..., Any]:
    """Turns what Google's client raises into an error with an exit code, naming the place."""

    @wraps(method)
    def wrapper(self: "GcsStorage", *arguments: Any, **named: Any) -> Any:
        from google.api_core.exceptions import GoogleAPICallError, NotFound
        from google.auth.exceptions import GoogleAuthError

        from macrec.gcs_session import passes

        try:
            return method(self, *arguments, **named)
        except NotFound as error:
            raise UserError(f"{self.uri}: not found ({error}). Check the bucket's name.") from error
        except Exception as error:
            if passes(error):
                raise TryAgain(f"{self.uri}: no answer from the storage ({error}).") from error
            if isinstance(error, GoogleAPICallError | GoogleAuthError):
                told = f"{self.uri}: access refused ({error}). Check the account."
                raise UserError(told) from error
            raise

    return wrapper


class GcsStorage:
    """A prefix of a Google Cloud Storage bucket. Honours STORAGE_EMULATOR_HOST.

    Nothing is believed that was not compared with the object's checksum: ranged reads, which
    Google's client also makes when it goes on after a fault, are not checked by it.
    """

    @_translated
    def __init__(self, bucket: str, prefix: str) -> None:
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"{GCS_PREFIX}{bucket}/{prefix}".rstrip("/")
        try:
            self._bucket = _gcs_client().bucket(bucket)
        except ValueError as error:
            raise UserError(f"{self.uri}: no name of a bucket ({error})") from error
        self._seen = False

    def _find(self, name: str) -> Any:
        """The object with its size and checksum, or None if the bucket has no such object.

        Raises:
            NotFound: there is no such bucket.
        """
        blob = self._bucket.get_blob(self.prefix + name, retry=None)
        if blob is None and not self._seen:  # GCS answers the same if there is no bucket
            next(iter(self._bucket.list_blobs(max_results=1, retry=None)), None)
        self._seen = True
        return blob

    def list(self, prefix: str = "") -> Iterator[Entry]:
        yield from self._list(prefix)

    def names(self, prefix: str = "") -> Sequence[str]:
        return [entry.name for entry in self._list(prefix)]

    @_translated  # a generator would raise outside of the wrapper
    def _list(self, prefix: str) -> Sequence[Entry]:
        blobs = self._bucket.list_blobs(prefix=self.prefix + prefix, retry=None)
        return [
            Entry(blob.name[len(self.prefix) :], blob.size, blob.md5_hash or blob.crc32c)
            for blob in blobs
            if not blob.name.endswith("/")  # folder markers of the console
        ]

    @_translated
    def read(self, name: str) -> bytes | None:
        content = io.BytesIO()
        return content.getvalue() if self._copy(name, content) else None

    @_translated
    def exists(self, name: str) -> bool:
        return self._find(name) is not None

    @_translated
    def create(self, name: str, content: bytes) -> bool:
        from google.api_core.exceptions import PreconditionFailed

        blob = self._bucket.blob(self.prefix + name)
        try:
            blob.upload_from_string(content, if_generation_match=0, retry=None)
            return True
        except PreconditionFailed:
            # Also met when the first try was applied and its reply lost: then the content is ours.
            return self.read(name) == content

    @_translated
    def upload(self, source: Path, name: str) -> None:
        from google.api_core.exceptions import ClientError
        from google.cloud.storage.exceptions import DataCorruption

        from macrec.gcs_session import CHUNK_BYTES

        for again in (True, False):
            if self._holds(name, source):
                self.touch(name)
                return
            blob = self._bucket.blob(self.prefix + name, chunk_size=CHUNK_BYTES)
            try:
                blob.upload_from_filename(str(source), if_generation_match=0, retry=None)
                return
            except (ClientError, DataCorruption):
                # As in `create`; an upload in parts may also be over, or have got a part twice.
                if not again and not self._holds(name, source):
                    raise

    def _holds(self, name: str, source: Path) -> bool:
        """Whether the content of the local file is there; False if nothing is.

        Raises:
            UserError: another content is.
        """
        blob = self._find(name)
        if blob is None:
            return False
        if (blob.size, blob.crc32c) != (source.stat().st_size, _crc32c(source)):
            raise UserError(
                f"{self.uri}/{name}: holds {blob.size:,} bytes that are not those to be stored "
                f"({source.stat().st_size:,} bytes), and is never replaced. Delete it and try "
                "again."
            )
        return True

    @_translated
    def download(self, name: str, target: Path) -> None:
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with partial.open("wb+") as file:
                if not self._copy(name, file):
                    raise UserError(f"{self.uri}/{name}: no such object. Try again.")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def _copy(self, name: str, to: IO[bytes]) -> bool:
        """Writes an object's content after a check of it; False if there is no such object.

        Raises:
            TryAgain: what came differed from the object's checksum twice.
        """
        from google_crc32c import Checksum

        from macrec.gcs_session import CHUNK_BYTES

        for again in (True, False):
            blob, checksum = self._find(name), Checksum()
            if blob is None:
                return False
            # By the host that was asked, which the link in the description need not name.
            content = self._bucket.blob(blob.name, generation=blob.generation)
            to.seek(0)
            to.truncate()
            for start in range(0, blob.size, CHUNK_BYTES):
                end = min(start + CHUNK_BYTES, blob.size) - 1
                part = content.download_as_bytes(
                    start=start, end=end, raw_download=True, checksum=None, retry=None
                )
                checksum.update(part)
                to.write(part)
            if base64.b64encode(checksum.digest()).decode() == blob.crc32c:
                if blob.content_encoding == "gzip":  # which GCS counts as packing, not as content
                    _unpack(to)
                return True
            if again:
                log.warning("%s/%s: damaged on its way, read once more", self.uri, name)
        raise TryAgain(
            f"{self.uri}/{name}: what was read differs from the object's CRC32C, twice. "
            "The network or a proxy damages what it carries."
        )

    @_translated
    def delete(self, name: str) -> None:
        from google.api_core.exceptions import NotFound

        try:
            self._bucket.blob(self.prefix + name).delete(retry=None)
        except NotFound:
            return

    def objects(self) -> Iterator[Object]:
        yield from self._objects("")

    def modified(self, name: str) -> float | None:
        found = [entry for entry in self._objects(name) if entry.name == name]
        return found[0].modified if found else None

    @_translated
    def _objects(self, prefix: str) -> Sequence[Object]:
        blobs = self._bucket.list_blobs(prefix=self.prefix + prefix, retry=None)
        return [Object(b.name[len(self.prefix) :], b.size, _last_used(b)) for b in blobs]

    @_translated
    def touch(self, name: str) -> None:
        from google.api_core.exceptions import NotFound

        blob = self._bucket.blob(self.prefix + name)
        blob.metadata = {USED: str(time.time())}
        try:
            blob.patch(retry=None)
        except NotFound:
            return


def _last_used(blob: Any) -> float:
    return max(blob.updated.timestamp(), float((blob.metadata or {}).get(USED, 0.0)))


def _unpack(file: IO[bytes]) -> None:
    file.seek(0)
    content = gzip.decompress(file.read())
    file.seek(0)
    file.truncate()
    file.write(content)


def _crc32c(path: Path) -> str:
    """A file's checksum as Google Cloud Storage writes it."""
    from google_crc32c import Checksum

    checksum = Checksum()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            checksum.update(part)
    return base64.b64encode(checksum.digest()).decode()


@lru_cache(maxsize=1)
def _gcs_client() -> Any:
    try:
        from macrec import gcs_session
    except ImportError as error:
        raise UserError("gs:// paths need the package google-cloud-storage.") from error
    return gcs_session.client()


def is_remote(uri: str) -> bool:
    """Whether the URI names a bucket rather than a path on this machine."""
    return uri.startswith(GCS_PREFIX)


def open_storage(uri: str) -> Storage:
    """The storage at a local folder or at gs://bucket/prefix; it need not exist yet."""
    if is_remote(uri):
        bucket, _, prefix = uri.removeprefix(GCS_PREFIX).partition("/")
        if not bucket:
            raise UserError(f"{uri}: names no bucket. Write gs://BUCKET/FOLDER.")
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
