"""A cache of vectors that an encoder has computed, in the store, keyed by the item's content.

A cache belongs to one encoder of one stage. The encoder stands for everything that a vector depends
on, except the item. The cache holds the vectors as the encoder returns them, before a mean is
subtracted. They are in a few large Parquet files that are named by their SHA-256 and never changed.
A corrupt file is logged and deleted, and its vectors are recomputed.

`EmbeddingCache.tidy` limits the size of the cache.

Shape suffixes: K requested keys, W distinct requested keys, D components, B vectors of a batch.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from macrec.core.artifact import Json, json_digest
from macrec.core.errors import TryAgain
from macrec.core.failpoint import failpoint
from macrec.core.progress import log
from macrec.core.storage.local import sha256_file
from macrec.core.storage.uris import open_storage
from macrec.data.columns import vector_column
from macrec.data.vectors import ROWS_AT_ONCE, ScratchMatrix

pc: Any = pyarrow.compute  # its functions are created at import, unseen by type checkers

KEY = pa.binary(32)
"""Type of a key: the SHA-256 of what the encoder reads of an item."""
PENDING_BYTES = 256 << 20
"""Maximum bytes of vectors that wait for the next file."""
FILE_BYTES = 1 << 30
"""Size in bytes of a file when the cache is rewritten."""
FREE_BYTES = 4 << 30
"""A cache up to this size in bytes keeps vectors that the last run did not use."""
TIMES_USED = 4
"""A larger cache holds at most this many times the bytes that the last run used."""
MAX_FILES = 256
"""A cache with more files than this is rewritten."""
ENCODERS = 4
"""Maximum number of encoders of a stage with a cache. The cache without new vectors for the longest
time is deleted."""
_NAME = re.compile(r"(?P<encoder>[0-9a-f]{16})/(?P<number>\d{8})-(?P<sha256>[0-9a-f]{64})\.parquet")


class CachedVectors(NamedTuple):
    """The cached vectors of some requested keys."""

    row_K: np.ndarray
    """int64: for each key the row of `matrix` with its vector, or -1."""
    matrix: ScratchMatrix | None
    """The cached vectors, float32; None if there are none."""


class _File(NamedTuple):
    name: str
    encoder: str
    number: int
    """Position of the file in the order of writing."""
    sha256: str


class EmbeddingCache:
    """The cached vectors of one encoder, in a folder of the store; used as a context manager.

    However the block ends, all added vectors are saved, so an interrupted run resumes where it
    stopped. If the storage does not respond, the new vectors are not cached but the run continues.

    Args:
        uri: the stage's folder, local or gs://. If it is empty, nothing is cached.
        encoder: everything that a vector depends on except the item, as JSON.
        dim: number of components of a vector.
        every_seconds: time between two files while vectors are computed.
        keep_all: whether to keep the vectors that this run does not use, because it embeds only a
            part of the items.
        clock: returns the time in seconds; tests replace it.
    """

    def __init__(
        self,
        uri: str,
        encoder: Json,
        dim: int,
        every_seconds: float = 300.0,
        keep_all: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.uri, self.dim, self._every_seconds = uri, dim, every_seconds
        self._storage = open_storage(uri) if uri else None
        self._encoder, self._keep_all = json_digest(encoder)[:16], keep_all
        self._files: list[_File] = []
        self._wanted = _RequestedVectors(pa.array([], KEY), dim)
        self._cache_bytes = self._used_bytes = 0
        self._written: set[str] = set()
        self._keys: list[bytes] = []
        self._vectors: list[np.ndarray] = []
        self._clock, self._saved_at = clock, clock()

    @property
    def is_enabled(self) -> bool:
        """Return whether vectors are cached at all, that is, whether `uri` is set."""
        return self._storage is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._save()
        if kind is None and not self._keep_all:
            self.tidy()

    def find(self, keys: pa.Array) -> CachedVectors:
        """Return the cached vectors of some keys, which may include nulls and repeated keys.

        Every file of the encoder is read once and verified. The vectors are copied to a scratch
        file.
        """
        if self._storage is None:
            return CachedVectors(np.full(len(keys), -1, np.int64), None)
        self._files = [file for name in self._storage.names() if (file := _parse_name(name))]
        with tempfile.TemporaryDirectory(prefix="macrec-cache-") as folder:
            wanted = self._wanted = _RequestedVectors(keys, self.dim)
            for file in self._own():
                path = Path(folder) / file.sha256
                for batch in self._batches(file, path):
                    wanted.take(batch)
                path.unlink(missing_ok=True)
        self._used_bytes = wanted.count * self.dim * 4
        log.info("embedding cache: %s of %s vectors found", f"{wanted.count:,}", f"{len(wanted):,}")
        return CachedVectors(wanted.rows(keys), wanted.matrix)

    def _own(self) -> list[_File]:
        return [file for file in self._files if file.encoder == self._encoder]

    def _batches(self, file: _File, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a file after verifying it; yield none if it is damaged or deleted."""
        assert self._storage is not None
        try:
            if not self._storage.exists(file.name):
                return  # another run has deleted it
            self._storage.download(file.name, path)
            if sha256_file(path) != file.sha256:
                raise ValueError("its content is not what was written (SHA-256)")
            self._storage.touch(file.name)
            self._cache_bytes += path.stat().st_size
            with pq.ParquetFile(path, pre_buffer=False) as parquet:
                if parquet.schema_arrow != _schema(self.dim):
                    raise ValueError("it contains vectors of another kind")
                yield from parquet.iter_batches(ROWS_AT_ONCE)
        except (ValueError, OSError, pa.ArrowException) as error:
            log.warning(
                "%s/%s: damaged, its vectors are computed again (%s)", self.uri, file.name, error
            )
            self._drop([file])

    def add(self, keys: Sequence[bytes], vectors_BD: np.ndarray) -> None:
        """Add new vectors to the cache, except those with NaN or infinite components."""
        if self._storage is None:
            return
        usable = np.flatnonzero(np.isfinite(vectors_BD).all(1))
        self._keys += [keys[row] for row in usable.tolist()]
        self._vectors.append(vectors_BD[usable].astype(np.float32))
        waiting = len(self._keys) * self.dim * 4
        if waiting > PENDING_BYTES or self._clock() - self._saved_at >= self._every_seconds:
            self._save()

    def _save(self) -> None:
        if self._keys:
            try:
                self._write(pa.array(self._keys, KEY), np.concatenate(self._vectors))
                self._written.add(self._files[-1].name)
                self._used_bytes += len(self._keys) * self.dim * 4
            except TryAgain as error:
                log.warning("%s vectors are not cached: %s", f"{len(self._keys):,}", error)
        self._keys, self._vectors = [], []
        self._saved_at = self._clock()

    def _write(self, keys: pa.Array, vectors_BD: np.ndarray) -> None:
        assert self._storage is not None
        columns = [keys, vector_column(vectors_BD, np.ones(len(keys), bool))]
        number = 1 + max((file.number for file in self._files), default=0)
        with tempfile.TemporaryDirectory(prefix="macrec-cache-") as folder:
            path = Path(folder) / "vectors.parquet"
            table = pa.table(columns, schema=_schema(self.dim))
            pq.write_table(table, path, compression="zstd", use_dictionary=False)
            sha256, size = sha256_file(path), path.stat().st_size
            name = f"{self._encoder}/{number:08d}-{sha256}.parquet"
            failpoint("cache file written")
            self._storage.upload(path, name)
            failpoint("cache file uploaded")
        self._cache_bytes += size
        self._files.append(_File(name, self._encoder, number, sha256))

    def tidy(self) -> None:
        """Limit the size of the cache after a successful run.

        The cache is rewritten if it is too large or has more than `MAX_FILES` files. It is too
        large above both `FREE_BYTES` and `TIMES_USED` times the vectors that the run used. The new
        files hold only those vectors.

        The stage keeps the caches of `ENCODERS` encoders: this one and those with the newest
        vectors. All others are deleted.
        """
        if self._storage is None:
            return
        newest: dict[str, int] = {}
        for file in self._files:
            newest[file.encoder] = max(newest.get(file.encoder, 0), file.number)
        newest[self._encoder] = sys.maxsize
        kept = sorted(newest, key=newest.__getitem__)[-ENCODERS:]
        too_large = self._cache_bytes > max(FREE_BYTES, TIMES_USED * self._used_bytes)
        try:
            self._drop([file for file in self._files if file.encoder not in kept])
            if too_large or len(self._own()) > MAX_FILES:
                self._renew()
        except TryAgain as error:
            log.warning("%s: not cleaned up: %s", self.uri, error)

    def _renew(self) -> None:
        """Write the vectors that `find` returned to new large files, and delete the old files."""
        earlier = [file for file in self._own() if file.name not in self._written]
        step = max(1, FILE_BYTES // (4 * self.dim))
        for start in range(0, self._wanted.count, step):
            self._write(
                *self._wanted.slice_rows(slice(start, min(start + step, self._wanted.count)))
            )
        self._drop(earlier)
        log.info("embedding cache: %d files merged (%s)", len(earlier), self.uri)

    def _drop(self, files: Sequence[_File]) -> None:
        assert self._storage is not None
        for file in files:
            self._storage.delete(file.name)
            failpoint("cache file dropped")
            self._files.remove(file)


class _RequestedVectors:
    """The distinct requested keys and their cached vectors."""

    def __init__(self, keys: pa.Array, dim: int) -> None:
        self._keys, self._dim = keys.drop_null().unique(), dim
        self._place_W = np.full(len(self._keys), -1, np.int64)
        self.matrix: ScratchMatrix | None = None
        self.count = 0

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, batch: pa.RecordBatch) -> None:
        """Copy the vectors of a batch (key, vector) that are requested and not yet present."""
        at_B = np.asarray(pc.index_in(batch.column(0), value_set=self._keys).fill_null(-1))
        row_B = np.flatnonzero((at_B >= 0) & (np.append(self._place_W, 0)[at_B] < 0))
        row_B = np.sort(row_B[np.unique(at_B[row_B], return_index=True)[1]])
        if not len(row_B):
            return
        if self.matrix is None:
            self.matrix = ScratchMatrix(len(self._keys), self._dim)
        end = self.count + len(row_B)
        vectors_BD = np.asarray(batch.column(1).take(pa.array(row_B)).flatten())
        self.matrix[self.count : end] = vectors_BD.reshape(-1, self._dim)
        self._place_W[at_B[row_B]] = np.arange(self.count, end)
        self.count = end

    def rows(self, keys: pa.Array) -> np.ndarray:
        """Return the matrix row of each key; -1 for a null and for a key without a vector."""
        at_K = np.asarray(pc.index_in(keys, value_set=self._keys, skip_nulls=True).fill_null(-1))
        return np.append(self._place_W, -1)[at_K]

    def slice_rows(self, rows: slice) -> tuple[pa.Array, np.ndarray]:
        """Return the keys and vectors of some rows of the matrix."""
        assert self.matrix is not None
        found = np.flatnonzero(self._place_W >= 0)
        order = found[np.argsort(self._place_W[found])]
        return self._keys.take(pa.array(order[rows])), self.matrix[rows]


def _schema(dim: int) -> pa.Schema:
    return pa.schema([pa.field("key", KEY), pa.field("vector", pa.list_(pa.float32(), dim))])


def _parse_name(name: str) -> _File | None:
    match = _NAME.fullmatch(name)
    return _File(name, match["encoder"], int(match["number"]), match["sha256"]) if match else None
