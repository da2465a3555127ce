"""Converts a data set with published semantic IDs into the artifacts that train and evaluate read.

Shapes: N items, L levels.

There is no quantizer: its folder is empty, and `latents` contains the published codes without
vectors.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import shared
from benchmarks.data import amazon
from macrec.core.artifact import Artifact, FolderOutput
from macrec.core.errors import check
from macrec.data import schema
from macrec.data.columns import codes_column
from macrec.generator.tokens import MODALITIES, Modality

CODEBOOK_SIZE = 256  # in the published indices
Codes = npt.NDArray[np.int32]


class Unique(NamedTuple):
    """Codes without collisions, and the level that changed per item, or -1 [N]."""

    codes_NL: Codes
    moved_N: npt.NDArray[np.int8]


def resolve(codes_NL: Codes, codebook_size: int) -> Unique:
    """Make codes unique without latents, which are not published.

    Items are processed in order. The first item of a code keeps it. A later item receives the next
    free code at the last level, counted upwards and cyclically from its own.

    Raises:
        UserError: all last-level codes of a prefix are taken.
    """
    resolved_NL = codes_NL.copy()
    moved_N = np.full(len(codes_NL), -1, np.int8)
    used = {tuple(code) for code in codes_NL.tolist()}
    seen: set[tuple[int, ...]] = set()
    for item, code in enumerate(map(tuple, codes_NL.tolist())):
        if code not in seen:
            seen.add(code)
            continue
        *prefix, last = code
        steps = ((*prefix, (last + step) % codebook_size) for step in range(1, codebook_size))
        free = next((other for other in steps if other not in used), None)
        check(free is not None, f"item {item}: all codes that begin with {prefix} are taken.")
        assert free is not None
        used.add(free)
        resolved_NL[item], moved_N[item] = free, codes_NL.shape[1] - 1
    return Unique(resolved_NL, moved_N)


class Published(NamedTuple):
    """The artifacts, and the description of the data set for the results."""

    items: Artifact
    sequences: Artifact
    semantic_ids: Artifact
    latents: Artifact
    quantizer: Artifact
    facts: dict[str, Any]


def write(
    source: Path,
    folder: Path,
    *,
    shared_codes: bool = False,
    users: int = 0,
    only: Modality | None = None,
) -> Published:
    """Write the artifacts below `folder`.

    Args:
        source: folder with NAME.inter.json and both NAME.index_*.json, as for
            `benchmarks/data/amazon.py`.
        folder: output folder. Each call overwrites it; equal arguments give equal content.
        shared_codes: keep the codes as published, including collisions.
        users: number of users to keep, the first ones; 0 keeps all.
        only: keep only the codes of this modality, as in a catalogue without the other; None keeps
            both.
    """
    data = folder / "converted"
    rows = amazon.convert(source, data)
    check("semantic_ids" in rows, f"{source}: no published codes ({amazon.CODES}).")
    item_ids = pq.read_table(data / "items.parquet").column("item_id")
    total = len(item_ids)
    index = pa.array(np.arange(total, dtype=np.int32))
    published = pq.read_table(data / "semantic_ids.parquet")
    nothing_N = np.full(total, -1, np.int8)
    before, after = dict[str, Codes](), dict[str, Unique]()
    for modality in MODALITIES:
        codes_NL = np.array(published.column(f"{modality}_codes").to_pylist(), np.int32)
        absent = only not in (None, modality)
        before[modality] = np.full_like(codes_NL, -1) if absent else codes_NL
        unchanged = Unique(before[modality], nothing_N)
        is_resolved = not (shared_codes or absent)
        after[modality] = resolve(codes_NL, CODEBOOK_SIZE) if is_resolved else unchanged
    sequences = _sequences(data / "interactions.parquet", users)
    empty = pa.array([""] * total)
    nothing = pa.nulls(total, pa.string())
    tables = {
        "items": (
            schema.ITEMS,
            [index, item_ids, empty, empty, nothing, pa.array(np.zeros(total, bool))],
        ),
        "sequences": (schema.SEQUENCES, sequences),
        "semantic_ids": (
            schema.SEMANTIC_IDS,
            [
                *(index, item_ids),
                *(codes_column(after[modality].codes_NL) for modality in MODALITIES),
                *(pa.array(after[modality].moved_N) for modality in MODALITIES),
            ],
        ),
        "latents": (
            schema.latents(1, 1),
            [
                index,
                *(pa.nulls(total, pa.list_(pa.float32(), 1)) for _ in MODALITIES),
                *(codes_column(before[modality]) for modality in MODALITIES),
            ],
        ),
    }
    artifacts = {name: _dataset(folder / name, *content) for name, content in tables.items()}
    facts = {
        "dataset": source.name,
        "items": total,
        "users": len(sequences[0]),
        "interactions": len(sequences[1].values),
        "shared_codes": shared_codes,
        "moved": {modality: int((after[modality].moved_N >= 0).sum()) for modality in MODALITIES},
        "distinct_codes": {
            modality: len(np.unique(after[modality].codes_NL, axis=0))
            for modality in MODALITIES
            if only in (None, modality)
        },
    }
    return Published(**artifacts, quantizer=_no_quantizer(folder / "quantizer"), facts=facts)


def _sequences(path: Path, users: int) -> list[Any]:
    """Return the columns of the sequences artifact.

    The file lists users in order, each in time order.
    """
    table = pq.read_table(path)
    lengths = table.column("user_id").combine_chunks().value_counts()  # in order of appearance
    user_ids, counts_U = lengths.field("values"), lengths.field("counts").to_numpy()
    offsets_U1 = np.concatenate([[0], np.cumsum(counts_U)]).astype(np.int32)
    items = table.column("item_id").cast(pa.int32()).combine_chunks()
    count = min(users, len(user_ids)) if users else len(user_ids)
    lists = pa.ListArray.from_arrays(offsets_U1[: count + 1], items[: offsets_U1[count]])
    return [user_ids[:count], lists, pa.nulls(count, pa.list_(pa.int64()))]


def subset(sequences: Artifact, path: Path, users: npt.NDArray[np.int64]) -> Artifact:
    """Write the sequences of the users at the given indices."""
    return _dataset(path, schema.SEQUENCES, sequences.table().take(pa.array(users)).columns)


def _dataset(path: Path, kind: pa.Schema, columns: list[Any]) -> Artifact:
    metadata = {"codebook_size": CODEBOOK_SIZE} if kind is schema.SEMANTIC_IDS else {}
    return shared.write_dataset(path, kind, columns, **metadata)


def _no_quantizer(path: Path) -> Artifact:
    output = FolderOutput(path)
    output.prepare()
    output.commit({"stage": "published", "config": {}})
    return Artifact.open(path)
