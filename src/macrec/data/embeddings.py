"""Item vectors: how both embedding stages write them, and how precomputed ones are read.

Shape suffixes: N items of a chunk, D components.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from macrec.core.artifact import Artifact, DatasetOutput, Source
from macrec.core.errors import UserError, check
from macrec.core.progress import log
from macrec.data import schema
from macrec.data.centring import write_means
from macrec.data.columns import vector_column
from macrec.data.vectors import ScratchMatrix

pc: Any = pyarrow.compute  # its functions are created at import, unseen by type checkers

FLOAT32 = pa.float32()
OK, MISSING, NOT_FINITE, ALL_ZERO = "ok", "missing", "not_finite", "all_zero"

MAX_UNUSABLE_SHARE = 0.001
"""Maximum share of NaN, infinite or zero vectors. Above it the encoder is broken, not the items."""

LARGEST_DIM = 65_536
"""Maximum number of components of a precomputed vector. A file may contain lists of any length."""

FIRST = 10
"""Items that a message names."""

REMEDY_PRECOMPUTED = "Repair these vectors, or set them to null."

ROWS_AT_ONCE = 8_192
"""Rows held in memory at a time: 128 MiB at 4,096 components."""


class Vectors(NamedTuple):
    """The vectors of some consecutive items."""

    matrix_ND: np.ndarray
    """float32 or float16; rows whose status is not "ok" are meaningless."""
    status: np.ndarray
    """Object array of N strings: "ok", "missing" or the reason why the item has no vector."""


class PrecomputedVectors(NamedTuple):
    """Precomputed vectors from the user, in item order."""

    dim: int
    chunks: Iterator[Vectors]
    unknown: int
    """Number of rows of the file whose item is not in the catalogue."""
    kind: pa.DataType
    """Arrow type of the components: float16 if the file uses it, else float32."""


def write_vectors(
    output: DatasetOutput,
    chunks: Iterable[Vectors],
    items: Artifact,
    *,
    dim: int,
    centre: bool,
    remedy: str,
    kind: pa.DataType = FLOAT32,
) -> Counter[str]:
    """Stream vectors into an embeddings artifact; row k is item k.

    Args:
        output: the artifact to write.
        chunks: the catalogue's vectors in item order.
        items: the catalogue, for the ids in messages.
        dim: number of components of every vector.
        centre: whether to subtract the mean of all vectors. The vectors wait in a temporary file
            until it is known.
        remedy: a sentence on what to do about vectors that are NaN, infinite or zero.
        kind: Arrow type of the stored components: float32 or float16.

    Returns:
        The number of items with each status.

    Raises:
        UserError: no item has a vector, or too many vectors are NaN, infinite or zero.
    """
    counts: Counter[str] = Counter()
    checked = _quarantine(chunks, counts, items, remedy)
    with output.dataset(schema.embeddings(dim, kind)) as writer:
        start = 0
        for matrix_ND, status in _centre(checked, dim, output.path) if centre else checked:
            writer.write(_rows(Vectors(matrix_ND, status), start, kind))
            start += len(status)
        if counts[OK] == 0:
            raise UserError(f"none of {start:,} items got a vector: {dict(counts)}.")
    return counts


def count_statuses(chunks: Iterable[Vectors]) -> Counter[str]:
    """Consume vectors without writing them; return the number of items with each status."""
    counts: Counter[str] = Counter()
    for chunk in chunks:
        counts.update(chunk.status.tolist())
    return counts


def write_absent(output: DatasetOutput, items: int) -> dict[str, float]:
    """Write null vectors of one component, for a run without this modality; return the metrics."""
    missing = Vectors(np.zeros((items, 1), np.float32), np.full(items, MISSING, object))
    with output.dataset(schema.embeddings(1)) as writer:
        writer.write(_rows(missing, 0))
    return metrics(Counter({MISSING: items}), 1)


def metrics(counts: Counter[str], dim: int) -> dict[str, float]:
    """Return a stage's metrics from the counts of `write_vectors`, with one metric per status."""
    total = {"items": counts.total(), "dim": dim, OK: 0, MISSING: 0}
    return {name: float(count_statuses) for name, count_statuses in {**total, **counts}.items()}


def _rows(vectors: Vectors, start: int, kind: pa.DataType = FLOAT32) -> pa.Table:
    """Return rows of the artifact; the first one is item `start`."""
    matrix_ND, status = vectors.matrix_ND.astype(kind.to_pandas_dtype(), copy=False), vectors.status
    columns = [
        pa.array(np.arange(start, start + len(status), dtype=np.int32)),
        vector_column(matrix_ND, status == OK),
        pa.array(status, pa.string()),
    ]
    return pa.table(columns, schema=schema.embeddings(matrix_ND.shape[1], kind))


def _quarantine(
    chunks: Iterable[Vectors], counts: Counter[str], items: Artifact, remedy: str
) -> Iterator[Vectors]:
    """Yield the vectors with unusable ones marked as null rows, and count every status.

    Raises:
        UserError: too many vectors are NaN, infinite or zero.
    """
    first: dict[int, str] = {}
    start = 0
    for matrix_ND, given_status in chunks:
        status, present = given_status.copy(), given_status == OK
        mark_unusable(matrix_ND, status)
        unusable = np.flatnonzero(present & (status != OK))
        first |= {start + row: status[row] for row in unusable[: FIRST - len(first)].tolist()}
        counts.update(status.tolist())
        start += len(status)
        yield Vectors(matrix_ND, status)
    bad = counts[NOT_FINITE] + counts[ALL_ZERO]
    if bad == 0:
        return
    ids = items.table(["item_id"]).column(0).take(pa.array(list(first))).to_pylist()
    named = dict(zip(ids, first.values(), strict=True))
    if problem := explain_unusable(named, bad, counts[OK] + bad, remedy):
        raise UserError(problem)
    log.warning("%s They become null.", describe_unusable(named, bad, counts[OK] + bad))


def mark_unusable(matrix_ND: np.ndarray, status: np.ndarray) -> None:
    """Change the status "ok" of vectors that are NaN, infinite or zero to the reason."""
    present, finite = status == OK, np.isfinite(matrix_ND).all(1)
    status[present & ~finite] = NOT_FINITE
    status[present & finite & ~matrix_ND.any(1)] = ALL_ZERO


def describe_unusable(first: Mapping[str, str], bad: int, total: int) -> str:
    """Return a sentence about unusable vectors.

    Args:
        first: the first of these items by id, with the reason.
        bad: number of unusable vectors.
        total: number of all vectors.
    """
    named = ", ".join(f"{item} ({reason})" for item, reason in first.items())
    return (
        f"{bad:,} of {total:,} vectors are NaN, infinite or all zero: {named}"
        f"{', ...' if bad > len(first) else ''}."
    )


def explain_unusable(first: Mapping[str, str], bad: int, total: int, remedy: str) -> str:
    """Return why so many unusable vectors are refused, or an empty string for a few."""
    if bad <= MAX_UNUSABLE_SHARE * total:
        return ""
    return (
        f"{describe_unusable(first, bad, total)} At most {MAX_UNUSABLE_SHARE:.1%} may be. {remedy}"
    )


def _centre(chunks: Iterable[Vectors], dim: int, folder: Path) -> Iterator[Vectors]:
    """Yield the same vectors minus their mean, and write the mean to the folder.

    The vectors wait in a temporary file until the mean is known.
    """
    statuses: list[np.ndarray] = []
    total_D, count = np.zeros(dim), 0
    with tempfile.TemporaryFile(prefix="macrec-vectors-") as spool:
        for matrix_ND, status in chunks:
            spool.write(np.ascontiguousarray(matrix_ND, np.float32).data)
            total_D += matrix_ND[status == OK].sum(0, dtype=np.float64)
            count += int((status == OK).sum())
            statuses.append(status)
        mean_D = (total_D / max(count, 1)).astype(np.float32)
        write_means(folder, {"embedding": mean_D})
        spool.seek(0)
        for status in statuses:
            content = spool.read(len(status) * dim * 4)
            yield Vectors(np.frombuffer(content, np.float32).reshape(-1, dim) - mean_D, status)


def allocate_on_disk(rows: int, dim: int) -> np.ndarray:
    """Return a float32 matrix of zeros [rows, dim], memory-mapped from an unnamed file on disk.

    The kernel may write it out of memory at any time.
    """
    with tempfile.TemporaryFile(prefix="macrec-matrix-") as file:  # the map outlives the file
        return np.memmap(file, np.float32, "w+", shape=(rows, dim))


def read_precomputed(source: Source, items: Artifact) -> PrecomputedVectors:
    """Read vectors from Parquet (columns item_id, embedding) and align them with the items.

    Items that are not in the file, or whose vector is null there, have the status "missing".

    Raises:
        UserError: the file is not Parquet, a column is absent or has the wrong type, the vectors
            have different lengths, an item occurs twice, or no item of the catalogue has a vector.
    """
    reading = PrecomputedReading(source, items.table(["item_id"]).column(0).combine_chunks())
    matrix_ND: ScratchMatrix | None = None
    for rows, vectors_BD in reading.batches():
        if matrix_ND is None:
            kind = reading.kind.to_pandas_dtype()
            matrix_ND = ScratchMatrix(len(reading.ids), reading.dim, kind)
        matrix_ND[rows] = vectors_BD
    assert matrix_ND is not None, "batches() raises if there is no vector"
    if reading.unknown:
        log.warning(
            "%s: %s vectors of unknown items are left out", source.uri, f"{reading.unknown:,}"
        )
    chunks = _chunks(matrix_ND, reading.present)
    return PrecomputedVectors(reading.dim, chunks, reading.unknown, reading.kind)


class PrecomputedReading:
    """One pass over precomputed vectors, which checks them.

    Attributes:
        ids: ids of the items.
        dim: components of a vector; 0 until the first vector is read.
        kind: Arrow type of the components: float16 if the file uses it, else float32.
        present: which items have a vector, bool [N].
        unknown: number of rows of the file whose item is not among the ids.
    """

    def __init__(self, source: Source, ids: pa.Array) -> None:
        self.ids, self._source = ids, source
        self.dim, self.kind, self.unknown = 0, FLOAT32, 0
        self.present = np.zeros(len(ids), bool)
        self._seen = np.zeros(len(ids), bool)
        self._unknown_ids: list[str] = []

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the positions of known items that have a vector, and their vectors as float32.

        Raises:
            UserError: see `read_precomputed`.
        """
        for batch in _given_batches(self._source):
            names = batch.column(0).cast(self.ids.type)
            where = pc.index_in(names, value_set=self.ids)
            if where.null_count:
                strange = names.filter(where.is_null())
                self._unknown_ids += strange[: 3 - len(self._unknown_ids)].to_pylist()
            self.unknown += where.null_count
            rows = np.asarray(where.drop_null())
            _refuse_repeated(self._source, self.ids, rows, self._seen)
            vectors = batch.column(1).filter(pc.is_valid(where))
            rows = rows[np.asarray(vectors.is_valid())]
            vectors = vectors.drop_null()
            if len(vectors):
                self._start(vectors)
                self.present[rows] = True
                yield rows, _matrix(self._source, vectors, self.dim)
        self._refuse_none()

    def _start(self, vectors: pa.Array) -> None:
        if self.dim:
            return
        self.dim = pc.list_value_length(vectors)[0].as_py()
        value = vectors.type.value_type
        self.kind = value if value == pa.float16() else FLOAT32
        check(self.dim > 0, f"{self._source.uri}: the vectors are empty lists.")
        check(
            self.dim <= LARGEST_DIM,
            f"{self._source.uri}: the first vector has {self.dim:,} components, at most "
            f"{LARGEST_DIM:,} are read.",
        )

    def _refuse_none(self) -> None:
        if self.dim:
            return
        check(
            self.unknown > 0,
            f"{self._source.uri}: no row has a vector. Write one vector for each item.",
        )
        ours, theirs = (", ".join(i) for i in (self.ids[:3].to_pylist(), self._unknown_ids))
        raise UserError(
            f"{self._source.uri}: {self.unknown:,} vectors and none of an item of the catalogue. "
            f"The ids of the catalogue are like {ours}, those of the file like {theirs}. Compare "
            "the item ids."
        )


def write_precomputed(
    source: Source, items: Artifact, output: DatasetOutput, *, centre: bool
) -> dict[str, float]:
    """Write the user's vectors as an embeddings artifact; return the stage's metrics."""
    given = read_precomputed(source, items)
    counts = write_vectors(
        output,
        given.chunks,
        items,
        dim=given.dim,
        centre=centre,
        remedy=REMEDY_PRECOMPUTED,
        kind=given.kind,
    )
    return metrics(counts, given.dim) | {"unknown": float(given.unknown)}


def _chunks(matrix_ND: ScratchMatrix, present_N: np.ndarray) -> Iterator[Vectors]:
    for start in range(0, len(matrix_ND), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        status = np.where(present_N[part], OK, MISSING).astype(object)
        yield Vectors(matrix_ND[part], status)


def _given_batches(source: Source) -> Iterator[pa.RecordBatch]:
    """Yield batches of (item_id string, embedding list) of one Parquet file or a folder of them."""
    path = source.path()
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*.parquet") if not p.name.startswith((".", "_")))
    if not files:
        raise UserError(f"{source.uri}: the folder has no .parquet file.")
    for file in files:
        try:
            # Without the checksums, most flipped bits would go unnoticed and change the numbers.
            with pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as parquet:
                _check_columns(file, parquet.schema_arrow)
                for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=["item_id", "embedding"]):
                    names = batch.column("item_id").cast(pa.string())
                    yield pa.record_batch(
                        [names, batch.column("embedding")], ["item_id", "embedding"]
                    )
        except (pa.ArrowException, UnicodeError, OSError, MemoryError) as error:
            raise UserError(
                f"{file}: cannot be read as Parquet ({error}). Write a Parquet file with the "
                "columns item_id (text) and embedding (list of numbers)."
            ) from error


def _check_columns(file: Path, found: pa.Schema) -> None:
    problems = [f"no column {n!r}" for n in ("item_id", "embedding") if n not in found.names]
    if not problems:
        name, vector = found.field("item_id").type, found.field("embedding").type
        value = getattr(vector, "value_type", pa.null())
        if not (pa.types.is_floating(value) or pa.types.is_integer(value)):
            problems.append(f"embedding is {vector}, not a list of numbers")
        if not (pa.types.is_string(name) or pa.types.is_large_string(name)):
            problems.append(f"item_id is {name}, not string")
    if problems:
        raise UserError(f"{file}: {'; '.join(problems)}. Its columns: {', '.join(found.names)}.")


def _refuse_repeated(source: Source, ids: pa.Array, rows: np.ndarray, seen: np.ndarray) -> None:
    """Mark the rows as seen, and raise UserError if an item has two vectors."""
    unique, counts = np.unique(rows, return_counts=True)
    repeated = np.unique(np.concatenate([unique[counts > 1], unique[seen[unique]]]))
    if len(repeated):
        named = ", ".join(ids.take(pa.array(repeated[:10])).to_pylist())
        raise UserError(
            f"{source.uri}: at least {len(repeated):,} items have more than one vector: {named}."
        )
    seen[unique] = True


def _matrix(source: Source, vectors: pa.Array, dim: int) -> np.ndarray:
    """Return a list array without nulls as float32 [rows, dim]; a null component becomes NaN."""
    lengths = np.asarray(pc.list_value_length(vectors))
    wrong = lengths[lengths != dim]
    if len(wrong):
        raise UserError(
            f"{source.uri}: the first vector has {dim} components, {len(wrong):,} others have "
            f"{wrong.min()} to {wrong.max()}. All must have the same number."
        )
    values = vectors.flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):  # overflow gives inf, which is quarantined
        return values.astype(np.float32).reshape(-1, dim)
