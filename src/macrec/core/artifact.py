"""Artifacts: folders of files with a manifest that is written last.

Readers rely on the manifest alone and ignore files that it does not list. The size of listed files
is checked on opening, and their SHA-256 before the first read.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from macrec.core.errors import UserError
from macrec.core.failpoint import failpoint
from macrec.core.shortage import room_for
from macrec.core.storage.local import sha256_file
from macrec.core.storage.uris import content_digest, fetch

MANIFEST = "manifest.json"
SEAL = "manifest_digest"
"""Manifest key of the digest over all other entries. The artifact's own digest omits provenance."""
UNFINISHED = ".unfinished"
FORMAT = 2
ROWS_PER_GROUP = 65_536
ROWS_PER_FILE = 1_048_576

Json = dict[str, Any]


def canonical_json(value: Any) -> bytes:
    """Return the canonical byte form of a JSON value: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def json_digest(value: Any) -> str:
    """Return the SHA-256 of the canonical form of a JSON value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either complete or in its previous state, never partial."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with room_for(path, len(content)), partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        failpoint("file not yet renamed")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _describe_schema(schema: pa.Schema) -> list[dict[str, str | bool]]:
    """Return column names, types and nullability in the form of the manifest."""
    return [{"name": f.name, "type": str(f.type), "nullable": f.nullable} for f in schema]


class DatasetWriter:
    """Writes batches of one schema into Parquet parts of a folder, in order."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self.rows: dict[str, int] = {}
        self._writer: pq.ParquetWriter | None = None
        self._name = ""

    def write(self, data: pa.Table | pa.RecordBatch) -> None:
        """Append rows; columns are cast to the schema, and nulls in required ones are rejected."""
        table = pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data
        table = table.select(self.schema.names).cast(self.schema)
        table.validate()
        for start in range(0, table.num_rows, ROWS_PER_GROUP):
            if self._writer is None or self.rows[self._name] >= ROWS_PER_FILE:
                self.open_part()
            part = table.slice(start, ROWS_PER_GROUP)
            assert self._writer is not None
            with room_for(self.folder / self._name, part.nbytes):
                self._writer.write_table(part, row_group_size=ROWS_PER_GROUP)
            self.rows[self._name] += part.num_rows

    def open_part(self) -> None:
        """Close the current part and begin the next."""
        self.close()
        self._name = f"part-{len(self.rows):05d}.parquet"
        self.rows[self._name] = 0
        with room_for(self.folder / self._name):  # opening writes the first bytes
            self._writer = pq.ParquetWriter(
                self.folder / self._name,
                self.schema,
                compression="zstd",
                write_page_checksum=True,
                write_statistics=False,
            )
        failpoint("part begun")

    def close(self) -> None:
        """Close the current part."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with room_for(self.folder / self._name):
                writer.close()
            failpoint("part written")


class FolderOutput:
    """An output folder, such as a model. The stage writes files below `path`."""

    kfp_type = "Model"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: Json = {}
        self._schema: pa.Schema | None = None
        self._rows: dict[str, int] = {}

    def prepare(self) -> None:
        """Delete what an earlier attempt left in the folder, its manifest first.

        Raises:
            UserError: the folder holds files that no stage has written; nothing is deleted.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if any(self.path.iterdir()) and not self._is_ours():
            raise UserError(
                f"{self.path}: this output folder holds files that are no artifact, and would be "
                "emptied. Name another --out, or move them away."
            )
        (self.path / UNFINISHED).touch()  # until the end, so that a killed attempt is ours too
        self.discard()
        failpoint("output emptied")

    def discard(self) -> None:
        """Delete everything except the mark of an unfinished attempt; the manifest goes first."""
        (self.path / MANIFEST).unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != UNFINISHED:
                path.unlink()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder within the block, so that no other process writes into it.

        Raises:
            UserError: another process has locked the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks, such as a mounted bucket
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise UserError(
                        f"{self.path}: another process writes into this output folder. Wait for "
                        "its end, or name another --out."
                    ) from error
            yield
        finally:
            os.close(folder)

    def _is_ours(self) -> bool:
        if (self.path / UNFINISHED).is_file():
            return True
        try:
            found = json.loads((self.path / MANIFEST).read_bytes())
            return {"format", "digest", "files"} <= set(found)
        except (FileNotFoundError, ValueError, TypeError):
            return False

    def finish(self) -> None:
        """Delete the mark of an unfinished attempt."""
        (self.path / UNFINISHED).unlink(missing_ok=True)
        failpoint("output finished")

    def commit(self, provenance: Json) -> None:
        """Write the manifest, which lists all files in the folder.

        Args:
            provenance: what the artifact is made from; added to the manifest, not to the digest.
        """
        files = []
        for path in sorted(p for p in self.path.rglob("*") if p.is_file()):
            name = path.relative_to(self.path).as_posix()
            if name == UNFINISHED:
                continue
            entry: Json = {"name": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
            if name in self._rows:
                entry["rows"] = self._rows[name]
            files.append(entry)
        content: Json = {
            "format": FORMAT,
            "schema": None if self._schema is None else _describe_schema(self._schema),
            "metadata": self.metadata,
            "files": files,
        }
        manifest = {**content, "digest": json_digest(content), **provenance}
        manifest[SEAL] = json_digest({**manifest, SEAL: None})
        write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=1).encode())
        failpoint("manifest written")
        # Last: with neither a manifest nor a mark, the next attempt would reject the folder.
        self.finish()


class DatasetOutput(FolderOutput):
    """An output dataset: a folder of Parquet parts of one schema."""

    kfp_type = "Dataset"

    @contextmanager
    def dataset(self, schema: pa.Schema) -> Iterator[DatasetWriter]:
        """Yield a writer of rows; if the block raises, the dataset is not committed."""
        writer = DatasetWriter(self.path, schema)
        try:
            yield writer
        except BaseException:
            with suppress(Exception):  # such as a full disk, which is reported already
                writer.close()
            raise
        writer.close()
        if not writer.rows:  # an empty dataset still has a schema
            writer.open_part()
            writer.close()
        self._schema, self._rows = schema, writer.rows


class FileOutput:
    """An output that is one text file."""

    kfp_type = "Artifact"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: Json = {}

    def prepare(self) -> None:
        """Delete what an earlier attempt left."""
        self.discard()
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def discard(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Do nothing, because a file has no mark of an unfinished attempt."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock nothing, because the file is written atomically."""
        yield

    def write_text(self, text: str) -> None:
        """Write the file atomically."""
        write_atomically(self.path, text.encode())

    def commit(self, provenance: Json) -> None:
        """Check that the stage wrote the file. A file that exists is complete."""
        assert self.path.is_file(), f"the stage wrote no {self.path.name}"


class HtmlOutput(FileOutput):
    """A self-contained web page, shown by the KFP UI."""

    kfp_type = "HTML"


class MarkdownOutput(FileOutput):
    """A Markdown text, shown by the KFP UI."""

    kfp_type = "Markdown"


class ParameterOutput(FileOutput):
    """A string that later tasks of the pipeline use as a parameter."""

    kfp_type = "String"


class StructOutput(ParameterOutput):
    """A JSON object that later tasks of the pipeline use as a parameter."""

    kfp_type = "Struct"

    def write_json(self, content: Mapping[str, Any]) -> None:
        """Write the object; equal objects give equal bytes, so KFP's cache recognises them."""
        self.write_text(json.dumps(content, sort_keys=True, allow_nan=False))


Output = FolderOutput | FileOutput


@dataclass(frozen=True)
class Artifact:
    """A committed artifact, opened for verified reading."""

    path: Path
    manifest: Mapping[str, Any]
    _verified: set[str] = field(default_factory=set[str], repr=False, compare=False)

    @classmethod
    def open(cls, path: Path) -> "Artifact":
        """Open a folder by its manifest.

        Raises:
            UserError: the manifest is absent or damaged, or a file is absent, truncated or outside
                the folder.
        """
        try:
            manifest = json.loads((path / MANIFEST).read_bytes())
            content = {k: manifest[k] for k in ("format", "schema", "metadata", "files")}
            sizes = _sizes(content)
            stated = manifest["digest"], manifest.get(SEAL)
            computed = json_digest(content), json_digest({**manifest, SEAL: None})
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"{path}: no {MANIFEST}, so this is not a finished artifact. Rerun its stage."
            ) from error
        except (
            ValueError,
            LookupError,
            TypeError,
            OverflowError,
            RecursionError,
            AttributeError,
        ) as error:
            raise UserError(f"{path}/{MANIFEST}: damaged ({error}). Rerun its stage.") from error
        if content["format"] != FORMAT:
            raise UserError(
                f"{path}: artifact format {content['format']}, this version reads {FORMAT}. "
                "Rerun its stage."
            )
        if computed != stated:
            raise UserError(f"{path}/{MANIFEST}: its digest does not match. Rerun its stage.")
        for name, size in sizes.items():
            try:
                inside = (path / name).resolve().is_relative_to(path.resolve())
                found = (path / name).stat().st_size if (path / name).is_file() else None
            except (ValueError, OSError) as error:  # not a valid file name
                raise UserError(f"{path}/{MANIFEST}: names {name!r} ({error}).") from error
            if not inside:
                raise UserError(f"{path}/{MANIFEST}: names {name!r}, outside of the artifact.")
            if found != size:
                raise UserError(
                    f"{path}/{name}: {'absent' if found is None else f'{found:,} bytes'}, "
                    f"the manifest says {size:,} bytes. Rerun its stage."
                )
        return cls(path, manifest)

    @property
    def digest(self) -> str:
        """Return the digest of the content, which does not depend on who made it, or when."""
        return self.manifest["digest"]

    @property
    def metadata(self) -> Json:
        """Return the metadata that the stage recorded."""
        return dict(self.manifest["metadata"])

    @property
    def rows(self) -> int:
        """Return the number of rows of a dataset."""
        return sum(entry.get("rows", 0) for entry in self.manifest["files"])

    @property
    def schema(self) -> pa.Schema:
        """Return the Arrow schema of a dataset."""
        return pq.read_schema(self.file(self._parts()[0]))

    def has(self, name: str) -> bool:
        """Return whether the manifest lists a file."""
        return any(entry["name"] == name for entry in self.manifest["files"])

    def file(self, name: str) -> Path:
        """Return the path of one file after checking its SHA-256.

        Raises:
            UserError: the manifest does not list the file, or its content has changed.
        """
        entry = next((e for e in self.manifest["files"] if e["name"] == name), None)
        if entry is None:
            named = ", ".join(e["name"] for e in self.manifest["files"])
            raise UserError(f"{self.path}: has no file {name}; it has {named}.")
        if name not in self._verified:
            if sha256_file(self.path / name) != entry["sha256"]:
                raise UserError(
                    f"{self.path / name}: content differs from its manifest (SHA-256). "
                    "Delete the artifact and rerun its stage."
                )
            self._verified.add(name)
        return self.path / name

    def verify(self) -> "Artifact":
        """Check every file now, for readers that use the folder as a whole."""
        for entry in self.manifest["files"]:
            self.file(entry["name"])
        return self

    def _parts(self) -> list[str]:
        return [e["name"] for e in self.manifest["files"] if e["name"].endswith(".parquet")]

    def batches(
        self, columns: list[str] | None = None, batch_size: int = ROWS_PER_GROUP
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a dataset in order, in batches of at most `batch_size` rows."""
        for name in self._parts():
            # With pre-buffering, the whole file would stay in memory until its last row is read.
            with pq.ParquetFile(
                self.file(name), page_checksum_verification=True, pre_buffer=False
            ) as file:
                yield from file.iter_batches(batch_size, columns=columns)

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """Return all rows of a dataset at once."""
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        return pa.Table.from_batches(self.batches(columns), schema.remove_metadata())


def _sizes(content: Json) -> dict[str, int]:
    """Return the size in bytes of each file of a manifest, and check the types of its entries.

    Raises:
        LookupError, TypeError: an entry is absent or has the wrong type.
    """
    if not isinstance(content["metadata"], dict):
        raise TypeError("metadata is no object")
    for entry in content["files"]:
        values = entry["name"], entry["sha256"], entry["bytes"], entry.get("rows", 0)
        kinds = str, str, int, int
        if not all(isinstance(v, kind) for v, kind in zip(values, kinds, strict=True)):
            raise TypeError(f"the file {entry['name']!r} is described with wrong types")
    return {entry["name"]: entry["bytes"] for entry in content["files"]}


class Source:
    """Data from outside the pipeline: a local path, gs://, or a model hub's `name/model@revision`.

    The digest identifies the content. It is the snapshot's if the pipeline took one; otherwise it
    is computed. A hub id identifies itself.
    """

    def __init__(
        self, uri: str, *, snapshot: str = "", cache: Path | None = None, hub: bool = False
    ) -> None:
        self.uri, self._snapshot, self._cache, self.is_hub = uri, snapshot, cache, hub
        self._given = snapshot

    @property
    def digest(self) -> str:
        """Return the digest of the content."""
        if not self._snapshot:
            self._snapshot = f"hub:{self.uri}" if self.is_hub else content_digest(self.uri)
        return self._snapshot

    def check_unchanged(self) -> None:
        """Check that the content still matches the snapshot, which reads all of it.

        Raises:
            UserError: the content has changed.
        """
        if self._given and not self.is_hub and content_digest(self.uri) != self._given:
            raise UserError(
                f"{self.uri}: has changed since the run took its snapshot. Start the run again."
            )

    def path(self) -> Path:
        """Return a local file or folder with the content; a remote one is downloaded."""
        assert not self.is_hub, "a hub id has no path"
        return fetch(self.uri, self._cache or Path(tempfile.gettempdir()) / "macrec-fetch")

    def __repr__(self) -> str:
        return f"Source({self.uri!r})"
