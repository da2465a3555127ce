"""Converts Amazon data sets, as recommender papers distribute them, into a catalogue and a log.

    python benchmarks/data/amazon.py SOURCE_DIR OUT_DIR

Input files; only the first is required:
- `NAME.inter.json`: {user: [item numbers in time order]}
- `NAME.item.json`: {item number: {title, description, image, ...}}
- `NAME.item2id`: id in the shop (asin) and item number
- `*emb*text*.npy`, `*emb*image*.npy`: vectors; row k belongs to item number k
- `NAME.index_*.json`: published semantic IDs

Output files:
- items.parquet: every item, in the order of the item numbers
- interactions.parquet: the interactions of each user in time order. There are no timestamps, so
  pass `--timestamp-column ''`.
- text_embeddings.parquet, image_embeddings.parquet: columns item_id, embedding
- semantic_ids.parquet: columns item_id, text_codes, image_codes

Images are not copied: the image folder is SOURCE_DIR/images.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from macrec.core.errors import UserError

TEXT_FIELDS = ("title", "description", "brand", "categories")
NOTHING = "."  # how the data sets mark a missing text
EMBEDDINGS = {"text": "*emb*text*.npy", "image": "*emb*image*.npy"}
ENCODERS = {"text": "smollm2-*", "image": "dinov2-*"}
CODES = {"text": "*.index_lemb.json", "image": "*.index_vitemb.json"}


def convert(source: Path, out: Path) -> dict[str, int]:
    """Convert a folder and return the number of rows of each written file.

    Raises:
        UserError: the folder has none of the known layouts, or its files are inconsistent.
    """
    sequences: dict[str, list[int]] = _json(_only(source, "*.inter.json"))
    item_ids = [str(number) for number in range(_item_count(source, sequences))]
    tables = {
        "items": items_table(source, item_ids),
        "interactions": interactions_table(sequences),
        **{f"{kind}_embeddings": embeddings_table(source, item_ids, kind) for kind in EMBEDDINGS},
        "semantic_ids": codes_table(source, item_ids),
    }
    out.mkdir(parents=True, exist_ok=True)
    written = {name: table for name, table in tables.items() if table is not None}
    for name, table in written.items():
        pq.write_table(table, out / f"{name}.parquet", compression="zstd")
    return {name: table.num_rows for name, table in written.items()}


def vectors_of(data: Path, encoders: Path | None) -> dict[str, tuple[str, Path]]:
    """Return the source of the vectors per modality: ("embeddings", file) or ("model", folder).

    Args:
        data: a converted folder.
        encoders: output folder of `macrec sample --encoders`, required if vectors are missing.

    Raises:
        UserError: a modality has neither vectors nor an encoder.
    """
    sources: dict[str, tuple[str, Path]] = {}
    for modality, pattern in ENCODERS.items():
        vectors = data / f"{modality}_embeddings.parquet"
        model = next(iter(encoders.resolve().glob(pattern)), None) if encoders else None
        if vectors.exists():
            sources[modality] = ("embeddings", vectors)
        elif model:
            sources[modality] = ("model", model)
        else:
            place = f"{encoders} has no {pattern}" if encoders else "no --encoders"
            raise UserError(
                f"{data}: no {modality} vectors, and {place}. Make the encoders with "
                "`macrec sample --encoders DIR` and name that folder."
            )
    return sources


def _find(source: Path, pattern: str) -> Path | None:
    paths = sorted(source.glob(pattern))
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise UserError(f"{source}: several files match {pattern} ({names}). Keep one.")
    return paths[0] if paths else None


def _only(source: Path, pattern: str) -> Path:
    path = _find(source, pattern)
    if path is None:
        raise UserError(f"{source}: no {pattern}. Give a folder with an Amazon data set.")
    return path


def _json(path: Path | None) -> dict[str, Any]:
    return {} if path is None else json.loads(path.read_text(encoding="utf-8"))


def _item_count(source: Path, sequences: dict[str, list[int]]) -> int:
    """Return N. The items of the log and the catalogue must be numbered 0..N-1 without gaps."""
    numbers = {number for history in sequences.values() for number in history}
    numbers |= {int(number) for number in _json(_find(source, "*.item.json"))}
    if not numbers or numbers != set(range(len(numbers))):
        raise UserError(f"{source}: the items are not numbered 0 to {len(numbers) - 1:,}.")
    return len(numbers)


def items_table(source: Path, item_ids: Sequence[str]) -> pa.Table:
    """Return the catalogue: texts, the id in the shop (asin) and the image file name, if any."""
    records = _json(_find(source, "*.item.json"))
    rows = [records.get(item, {}) for item in item_ids]
    columns: dict[str, list[str | None]] = {"item_id": list(item_ids)}
    for name in TEXT_FIELDS:
        columns[name] = [_text(row.get(name)) for row in rows]
    asins = _asins(source)
    columns["asin"] = [
        row.get("asin") or asins.get(item) for item, row in zip(item_ids, rows, strict=True)
    ]
    columns["image"] = [row.get("image") or None for row in rows]
    return pa.table(columns, pa.schema([(name, pa.string()) for name in columns]))


def _text(value: str | None) -> str | None:
    return None if value is None or value.strip() in ("", NOTHING) else value


def _asins(source: Path) -> dict[str, str]:
    path = _find(source, "*.item2id")
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    return {number: asin for asin, number in (line.split("\t") for line in lines if line)}


def interactions_table(sequences: dict[str, list[int]]) -> pa.Table:
    """Return one row per interaction: users in file order, the items of each in time order."""
    lengths = [len(history) for history in sequences.values()]
    users = pa.array(list(sequences), pa.string())
    positions = pa.array(np.repeat(np.arange(len(lengths)), lengths))
    items = np.fromiter((i for history in sequences.values() for i in history), np.int64)
    item_column = pa.array(items).cast(pa.string())
    return pa.table({"user_id": users.take(positions), "item_id": item_column})


def embeddings_table(source: Path, item_ids: Sequence[str], kind: str) -> pa.Table | None:
    """Return the given vectors of one modality in item order, or None if there are none."""
    path = _find(source, EMBEDDINGS[kind])
    if path is None:
        return None
    matrix_ND = np.load(path).astype(np.float32)
    if len(matrix_ND) != len(item_ids):
        raise UserError(f"{path}: {len(matrix_ND):,} rows, but {len(item_ids):,} items.")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix_ND.ravel()), matrix_ND.shape[1])
    return pa.table({"item_id": pa.array(item_ids), "embedding": vectors})


def codes_table(source: Path, item_ids: Sequence[str]) -> pa.Table | None:
    """Return the published semantic IDs, or None. The token `<a_170>` at level 0 is code 170."""
    columns: dict[str, pa.Array] = {"item_id": pa.array(item_ids)}
    for kind, pattern in CODES.items():
        tokens = _json(_find(source, pattern))
        if tokens:
            codes = [[int(t.strip("<>").split("_")[1]) for t in tokens[item]] for item in item_ids]
            columns[f"{kind}_codes"] = pa.array(codes, pa.list_(pa.int16()))
    return pa.table(columns) if len(columns) > 1 else None


def main() -> None:
    """Run the command line and print one JSON line with the row counts of the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, metavar="SOURCE_DIR")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    arguments = parser.parse_args()
    try:
        rows = convert(arguments.source, arguments.out)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(json.dumps({"out": str(arguments.out), **rows}))


if __name__ == "__main__":
    main()
