"""What a storage backend is: a folder of files, on a disk or in a bucket.

Only what artifacts need: list, read, create-if-absent, upload, download, delete. Data that a
stage computes on is always a local file: a remote one is downloaded first (`uris.fetch`).
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
