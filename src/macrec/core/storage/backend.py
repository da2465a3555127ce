"""The interface of a storage backend: a folder of files, on a disk or in a bucket.

It has only what artifacts need: list, read, create-if-absent, upload, download, delete. A stage
computes only on local files, so remote files are downloaded first (`uris.fetch`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

GCS_PREFIX = "gs://"


class Entry(NamedTuple):
    """One file of a storage, with a checksum of its content."""

    name: str
    bytes: int
    checksum: str


class Object(NamedTuple):
    """One file of a storage, with the time when it was written or last used (Unix seconds)."""

    name: str
    bytes: int
    modified: float


class Storage(Protocol):
    """A folder of files, on a disk or in a bucket. Names are relative and use forward slashes."""

    uri: str

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every file whose name starts with the prefix, sorted by name."""
        ...

    def names(self, prefix: str = "") -> Sequence[str]:
        """Return the names of the files that `list` yields, without reading any content."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the whole content, or None if the file does not exist."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether the file exists."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file atomically unless it exists; return True if it holds this content."""
        ...

    def upload(self, source: Path, name: str) -> None:
        """Store the local file under the name. Its content must never change afterwards."""
        ...

    def download(self, name: str, target: Path) -> None:
        """Make the file available at a local path, whose folder must exist."""
        ...

    def delete(self, name: str) -> None:
        """Delete the file if it exists."""
        ...

    def objects(self) -> Iterator[Object]:
        """Yield every file with the time of its last use, without reading any content."""
        ...

    def modified(self, name: str) -> float | None:
        """Return when the file was written or last touched (Unix seconds), or None if absent."""
        ...

    def touch(self, name: str) -> None:
        """Mark the file as used now; `macrec gc` goes by the time since the last use."""
        ...
