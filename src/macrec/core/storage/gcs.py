"""A prefix of a Google Cloud Storage bucket as a storage backend."""

import base64
import gzip
import io
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import IO, Any

from google.api_core.exceptions import (
    ClientError,
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
)
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage.exceptions import DataCorruption
from google_crc32c import Checksum

from macrec.core.errors import TryAgain, UserError
from macrec.core.progress import log
from macrec.core.storage import gcs_session
from macrec.core.storage.backend import GCS_PREFIX, Entry, Object

USED = "macrec-used"
"""Metadata key of an object in a bucket: when a run last used the object (Unix seconds)."""


def _translate_errors(method: Callable[..., Any]) -> Callable[..., Any]:
    """Convert exceptions of Google's client into errors with an exit code that name the URI."""

    @wraps(method)
    def wrapper(self: "GcsStorage", *arguments: Any, **named: Any) -> Any:
        try:
            return method(self, *arguments, **named)
        except NotFound as error:
            raise UserError(f"{self.uri}: not found ({error}). Check the bucket's name.") from error
        except Exception as error:
            if gcs_session.passes(error):
                raise TryAgain(f"{self.uri}: no response from the storage ({error}).") from error
            if isinstance(error, GoogleAPICallError | GoogleAuthError):
                message = f"{self.uri}: access refused ({error}). Check the account."
                raise UserError(message) from error
            raise

    return wrapper


class GcsStorage:
    """A prefix of a Google Cloud Storage bucket. Honours STORAGE_EMULATOR_HOST.

    Everything that is read is compared with the object's checksum, because Google's client does not
    check ranged reads. It also makes such reads when it resumes after an error.
    """

    @_translate_errors
    def __init__(self, bucket: str, prefix: str) -> None:
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"{GCS_PREFIX}{bucket}/{prefix}".rstrip("/")
        try:
            self._bucket: Any = gcs_session.client().bucket(bucket)
        except ValueError as error:
            raise UserError(f"{self.uri}: invalid bucket name ({error})") from error
        self._seen = False

    def _find(self, name: str) -> Any:
        """Return the object with its size and checksum, or None if the bucket has no such object.

        Raises:
            NotFound: the bucket does not exist.
        """
        blob = self._bucket.get_blob(self.prefix + name, retry=None)
        if blob is None and not self._seen:  # GCS answers the same for a missing bucket
            next(iter(self._bucket.list_blobs(max_results=1, retry=None)), None)
        self._seen = True
        return blob

    def list(self, prefix: str = "") -> Iterator[Entry]:
        yield from self._list(prefix)

    def names(self, prefix: str = "") -> Sequence[str]:
        return [entry.name for entry in self._list(prefix)]

    @_translate_errors  # not on the generator, which would raise outside the wrapper
    def _list(self, prefix: str) -> Sequence[Entry]:
        blobs = self._bucket.list_blobs(prefix=self.prefix + prefix, retry=None)
        return [
            Entry(blob.name[len(self.prefix) :], blob.size, blob.md5_hash or blob.crc32c)
            for blob in blobs
            if not blob.name.endswith("/")  # folder markers of the console
        ]

    @_translate_errors
    def read(self, name: str) -> bytes | None:
        content = io.BytesIO()
        return content.getvalue() if self._copy(name, content) else None

    @_translate_errors
    def exists(self, name: str) -> bool:
        return self._find(name) is not None

    @_translate_errors
    def create(self, name: str, content: bytes) -> bool:
        blob = self._bucket.blob(self.prefix + name)
        try:
            blob.upload_from_string(content, if_generation_match=0, retry=None)
            return True
        except PreconditionFailed:
            # This also happens if an earlier try succeeded but its response was lost.
            return self.read(name) == content

    @_translate_errors
    def upload(self, source: Path, name: str) -> None:
        for again in (True, False):
            if self._holds(name, source):
                self.touch(name)
                return
            blob = self._bucket.blob(self.prefix + name, chunk_size=gcs_session.CHUNK_BYTES)
            try:
                blob.upload_from_filename(str(source), if_generation_match=0, retry=None)
                return
            except (ClientError, DataCorruption):
                # As in `create`. An upload in parts may also be finished already, or have received
                # one part twice.
                if not again and not self._holds(name, source):
                    raise

    def _holds(self, name: str, source: Path) -> bool:
        """Return whether the object has the content of the local file; False if there is none.

        Raises:
            UserError: the object has other content.
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

    @_translate_errors
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
        """Write an object's content to a file and verify it; return False if there is no object.

        Raises:
            TryAgain: the content differed from the object's checksum twice.
        """
        for again in (True, False):
            blob, checksum = self._find(name), Checksum()
            if blob is None:
                return False
            # A new blob has no media link, so the download goes to the same host as the request.
            # The link that GCS returns may name another host.
            content = self._bucket.blob(blob.name, generation=blob.generation)
            to.seek(0)
            to.truncate()
            for start in range(0, blob.size, gcs_session.CHUNK_BYTES):
                end = min(start + gcs_session.CHUNK_BYTES, blob.size) - 1
                part = content.download_as_bytes(
                    start=start, end=end, raw_download=True, checksum=None, retry=None
                )
                checksum.update(part)
                to.write(part)
            if base64.b64encode(checksum.digest()).decode() == blob.crc32c:
                if blob.content_encoding == "gzip":  # the checksum is of the compressed bytes
                    _unpack(to)
                return True
            if again:
                log.warning("%s/%s: corrupted in transit, read again", self.uri, name)
        raise TryAgain(
            f"{self.uri}/{name}: what was read differs from the object's CRC32C, twice. "
            "The network or a proxy damages what it carries."
        )

    @_translate_errors
    def delete(self, name: str) -> None:
        try:
            self._bucket.blob(self.prefix + name).delete(retry=None)
        except NotFound:
            return

    def objects(self) -> Iterator[Object]:
        yield from self._objects("")

    def modified(self, name: str) -> float | None:
        found = [entry for entry in self._objects(name) if entry.name == name]
        return found[0].modified if found else None

    @_translate_errors
    def _objects(self, prefix: str) -> Sequence[Object]:
        blobs = self._bucket.list_blobs(prefix=self.prefix + prefix, retry=None)
        return [Object(b.name[len(self.prefix) :], b.size, _last_used(b)) for b in blobs]

    @_translate_errors
    def touch(self, name: str) -> None:
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
    """Return a file's CRC32C checksum in the form that Google Cloud Storage uses (base64)."""
    checksum = Checksum()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            checksum.update(part)
    return base64.b64encode(checksum.digest()).decode()
