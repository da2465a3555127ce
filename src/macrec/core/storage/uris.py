"""One interface for local paths and gs://: open a storage, digest or fetch the content of a URI."""

import hashlib
from pathlib import Path, PurePosixPath

from macrec.core.errors import UserError
from macrec.core.storage.backend import GCS_PREFIX, Entry, Storage
from macrec.core.storage.local import LocalStorage, sha256_file


def is_remote(uri: str) -> bool:
    """Return whether the URI names a bucket rather than a path on this machine."""
    return uri.startswith(GCS_PREFIX)


def open_storage(uri: str) -> Storage:
    """Return the storage at a local folder or at gs://bucket/prefix, which need not exist yet.

    Raises:
        UserError: the URI is not a local path or gs:// URI, or google-cloud-storage is missing.
    """
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
    """Return the files at a URI: all files below a folder, or one file named by its base name.

    Raises:
        UserError: nothing exists at the URI.
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
    """Return the SHA-256 over the sorted (name, size, checksum) of all files at a URI."""
    digest = hashlib.sha256()
    for entry in sorted(entries(uri)):
        digest.update(f"{entry.name}\0{entry.bytes}\0{entry.checksum}\n".encode())
    return digest.hexdigest()


def fetch(uri: str, cache: Path) -> Path:
    """Return a local path with the content of the URI; a remote one is downloaded below `cache`.

    Raises:
        UserError: nothing exists at the URI, or an object name leads outside its folder.
    """
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
