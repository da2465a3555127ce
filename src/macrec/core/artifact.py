"""Artifacts: a folder of files and a manifest that is written last.

Readers go by the manifest alone: files that it does not name are ignored, files that it names are
checked for size on opening and for SHA-256 before their first read.
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
"""Entry of the manifest: the digest of all its others, for the artifact's own has no provenance."""
UNFINISHED = ".unfinished"
FORMAT = 2
ROWS_PER_GROUP = 65_536
ROWS_PER_FILE = 1_048_576

Json = dict[str, Any]


def canonical_json(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def json_digest(value: Any) -> str:
    """SHA-256 of the canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that it is either absent, as before, or whole."""
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


def _described(schema: pa.Schema) -> list[dict[str, str | bool]]:
    """Return column names, types and nullability, as the manifest states them."""
    return [{"name": f.name, "type": str(f.type), "nullable": f.nullable} for f in schema]


class DatasetWriter:
    """Writes batches of one schema into Parquet parts of a folder, in order."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self.rows: dict[str, int] = {}
        self._writer: pq.ParquetWriter | None = None
        self._name = ""

    def write(self, data: pa.Table | pa.RecordBatch) -> None:
        """Appends rows; columns are cast to the schema, and a null in a required one is refused."""
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
        """Ends the part being written and begins the next."""
        self.close()
        self._name = f"part-{len(self.rows):05d}.parquet"
        self.rows[self._name] = 0
        with room_for(self.folder / self._name):  # its first bytes
            self._writer = pq.ParquetWriter(
                self.folder / self._name,
                self.schema,
                compression="zstd",
                write_page_checksum=True,
                write_statistics=False,
            )
        failpoint("part begun")

    def close(self) -> None:
        """Ends the part that is being written."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with room_for(self.folder / self._name):
                writer.close()
            failpoint("part written")


class FolderOutput:
    """An output folder, such as a model: files are written below `path`."""

    kfp_type = "Model"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: Json = {}
        self._schema: pa.Schema | None = None
        self._rows: dict[str, int] = {}

    def prepare(self) -> None:
        """Empties the folder of what an earlier attempt left behind, its manifest first.

        Raises:
            UserError: the folder holds files that no stage has written; nothing is touched.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if any(self.path.iterdir()) and not self._is_ours():
            raise UserError(
                f"{self.path}: this output folder holds files that are no artifact, and would be "
                "emptied. Name another --out, or move them away."
            )
        (self.path / UNFINISHED).touch()  # stays until the end: a killed attempt is ours as well
        self.discard()
        failpoint("output emptied")

    def discard(self) -> None:
        """Removes all but the mark of an unfinished attempt; the manifest goes first."""
        (self.path / MANIFEST).unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != UNFINISHED:
                path.unlink()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block no other process may write into the folder.

        Raises:
            UserError: another one is about it.
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
        """Takes the mark of an unfinished attempt away."""
        (self.path / UNFINISHED).unlink(missing_ok=True)
        failpoint("output finished")

    def commit(self, provenance: Json) -> None:
        """Writes the manifest over what is in the folder."""
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
            "schema": None if self._schema is None else _described(self._schema),
            "metadata": self.metadata,
            "files": files,
        }
        manifest = {**content, "digest": json_digest(content), **provenance}
        manifest[SEAL] = json_digest({**manifest, SEAL: None})
        write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=1).encode())
        failpoint("manifest written")
        self.finish()  # last: without manifest and mark the next attempt would not know its own


class DatasetOutput(FolderOutput):
    """An output dataset: a folder of Parquet parts of one schema."""

    kfp_type = "Dataset"

    @contextmanager
    def dataset(self, schema: pa.Schema) -> Iterator[DatasetWriter]:
        """A writer of rows; if the block raises, the dataset is not committed."""
        writer = DatasetWriter(self.path, schema)
        try:
            yield writer
        except BaseException:
            with suppress(Exception):  # such as a full disk, which has been told
                writer.close()
            raise
        writer.close()
        if not writer.rows:  # an empty dataset still states its schema
            writer.open_part()
            writer.close()
        self._schema, self._rows = schema, writer.rows


class FileOutput:
    """An output of one text file."""

    kfp_type = "Artifact"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: Json = {}

    def prepare(self) -> None:
        """Removes what an earlier attempt left behind."""
        self.discard()
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def discard(self) -> None:
        """Removes the file."""
        self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Nothing to take away."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing to hold: the file is written whole, or not at all."""
        yield

    def write_text(self, text: str) -> None:
        """Writes the file, whole or not at all."""
        write_atomically(self.path, text.encode())

    def commit(self, provenance: Json) -> None:
        """Nothing to add: the file is whole since it was written."""
        assert self.path.is_file(), f"the stage wrote no {self.path.name}"


class HtmlOutput(FileOutput):
    """A self-contained web page, shown by the KFP UI."""

    kfp_type = "HTML"


class MarkdownOutput(FileOutput):
    """A Markdown text, shown by the KFP UI."""

    kfp_type = "Markdown"


class ParameterOutput(FileOutput):
    """A string that later tasks of the pipeline take as a parameter."""

    kfp_type = "String"


Output = FolderOutput | FileOutput


@dataclass(frozen=True)
class Artifact:
    """A committed artifact, opened for verified reading."""

    path: Path
    manifest: Mapping[str, Any]
    _verified: set[str] = field(default_factory=set[str], repr=False, compare=False)

    @classmethod
    def open(cls, path: Path) -> "Artifact":
        """Opens a folder by its manifest.

        Raises:
            UserError: no manifest, an unreadable one, or a file that is absent, cut or elsewhere.
        """
        try:
            manifest = json.loads((path / MANIFEST).read_bytes())
            content = {k: manifest[k] for k in ("format", "schema", "metadata", "files")}
            sizes = _sizes(content)
            stated = manifest["digest"], manifest.get(SEAL)
            computed = json_digest(content), json_digest({**manifest, SEAL: None})
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"{path}: no {MANIFEST}, so this is no finished artifact. Rerun its stage."
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
            except (ValueError, OSError) as error:  # no name that a file can have
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
        """Digest of the content: equal bytes have equal digests, whoever made them and when."""
        return self.manifest["digest"]

    @property
    def metadata(self) -> Json:
        """What the stage says about the artifact."""
        return dict(self.manifest["metadata"])

    @property
    def rows(self) -> int:
        """Rows of a dataset."""
        return sum(entry.get("rows", 0) for entry in self.manifest["files"])

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of a dataset."""
        return pq.read_schema(self.file(self._parts()[0]))

    def has(self, name: str) -> bool:
        """Whether the manifest names a file."""
        return any(entry["name"] == name for entry in self.manifest["files"])

    def file(self, name: str) -> Path:
        """Path of one file, after a check of its SHA-256.

        Raises:
            UserError: the manifest does not name the file, or its content has changed.
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
        """Checks every file now, for readers that take the folder as a whole."""
        for entry in self.manifest["files"]:
            self.file(entry["name"])
        return self

    def _parts(self) -> list[str]:
        return [e["name"] for e in self.manifest["files"] if e["name"].endswith(".parquet")]

    def batches(
        self, columns: list[str] | None = None, batch_size: int = ROWS_PER_GROUP
    ) -> Iterator[pa.RecordBatch]:
        """Rows in order, a bounded number at a time."""
        for name in self._parts():
            # Buffered ahead, the whole file would stay in memory until its last row is read.
            with pq.ParquetFile(
                self.file(name), page_checksum_verification=True, pre_buffer=False
            ) as file:
                yield from file.iter_batches(batch_size, columns=columns)

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """All rows at once."""
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        return pa.Table.from_batches(self.batches(columns), schema.remove_metadata())


def _sizes(content: Json) -> dict[str, int]:
    """Bytes of each file of a manifest, whose entries are of the right types.

    Raises:
        LookupError, TypeError: they are not.
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

    The digest identifies the content. It is taken from the snapshot if the pipeline made one, else
    computed; a hub id identifies itself.
    """

    def __init__(
        self, uri: str, *, snapshot: str = "", cache: Path | None = None, hub: bool = False
    ) -> None:
        self.uri, self._snapshot, self._cache, self.is_hub = uri, snapshot, cache, hub
        self._given = snapshot

    @property
    def digest(self) -> str:
        """Digest of the content."""
        if not self._snapshot:
            self._snapshot = f"hub:{self.uri}" if self.is_hub else content_digest(self.uri)
        return self._snapshot

    def check_unchanged(self) -> None:
        """Raises UserError: the content is not that of the snapshot. It is read for that."""
        if self._given and not self.is_hub and content_digest(self.uri) != self._given:
            raise UserError(
                f"{self.uri}: has changed since the run took its snapshot. Start the run again."
            )

    def path(self) -> Path:
        """A local file or folder with the content; a remote one is downloaded."""
        assert not self.is_hub, "a hub id has no path"
        return fetch(self.uri, self._cache or Path(tempfile.gettempdir()) / "macrec-fetch")

    def __repr__(self) -> str:
        return f"Source({self.uri!r})"
