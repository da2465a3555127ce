"""Reads the ids and the image paths of a catalogue, to compare them with images and vectors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from components.prepare_data.catalogue import image_kinds, image_paths, open_catalogue, read_chunks
from components.prepare_data.findings import mask, pc
from components.prepare_data.readers import TEXT, Chunk
from components.prepare_data.source_problems import nearest_column
from components.prepare_data.spec import Settings

ROWS = 65_536
SAMPLE = 1_000  # rows that are searched for a column of image paths
PICTURE = r"(?i)\.(jpe?g|png|webp|gif)$"


class PicturePaths(NamedTuple):
    """The ids and the image paths of a catalogue. Row k of both arrays is the catalogue's row k."""

    name: str
    """Name of the file or folder."""
    columns: list[str]
    ids: pa.Array
    paths: pa.Array
    """Null where an item has no path."""

    def keep(self, keep: np.ndarray) -> PicturePaths:
        """Return the rows where a mask is true."""
        rows = pa.array(keep)
        return self._replace(ids=self.ids.filter(rows), paths=self.paths.filter(rows))


def read_picture_paths(config: Settings, path: Path) -> PicturePaths:
    """Read the two columns in one pass.

    Raises:
        UserError: there is no data at the path.
    """
    reader = open_catalogue(config, path, ROWS)
    ids, paths = list[pa.Array](), list[pa.Array]()
    for chunk in read_chunks(config, reader, {**image_kinds(config), config.item_id_column: "id"}):
        ids.append(chunk.columns[config.item_id_column])
        paths.append(image_paths(config, chunk))
    empty = [pa.array([], TEXT)]
    return PicturePaths(
        reader.name,
        sorted(reader.seen),
        pa.concat_arrays(ids or empty),
        pa.concat_arrays(paths or empty),
    )


def explain_no_pictures(config: Settings, path: Path, found: PicturePaths) -> str:
    """Return why no item has an image path although images are given, or an empty string."""
    start, setting = f"{found.name}: no item has a picture", "prepare_data.image_column"
    if found.paths.null_count < len(found.paths) or len(found.ids) == 0:
        return ""
    if config.image_path and all(name in found.columns for name in image_kinds(config)):
        return (
            f"{start}: a column of prepare_data.image_path={config.image_path} is empty. Correct "
            "the template, or leave out catalog_images."
        )
    if config.image_path:
        return ""  # `validate` reports the column that does not exist
    if config.image_column in found.columns:
        return (
            f"{start}: the column {config.image_column!r} ({setting}) is empty. Set {setting} to "
            "the column of image paths, or leave out catalog_images."
        )
    cause = f"no column {config.image_column!r} ({setting})"
    cause = cause if config.image_column else f'{setting} is ""'
    near = nearest_column(config.image_column, found.columns) or _picture_column(
        config, path, found
    )
    if near:
        return f"{start}: {cause}. The nearest column is {near!r}: set {setting}={near}."
    listed = ", ".join(found.columns[:20]) + (", ..." if len(found.columns) > 20 else "")
    return (
        f"{start}: {cause}. It has {listed or 'no column'}: set {setting} to the column of image "
        "paths, or leave out catalog_images."
    )


def _picture_column(config: Settings, path: Path, found: PicturePaths) -> str:
    """Return the column in which most cells end like an image file, or an empty string."""
    reader = open_catalogue(config, path, SAMPLE)
    chunk = next(iter(reader.chunks(dict.fromkeys(found.columns, "text"))), None)
    if chunk is None:
        return ""
    shares = {name: _picture_share(chunk, name) for name in found.columns}
    best = max(shares, key=lambda name: shares[name], default="")
    return best if best and shares[best] > 0.5 else ""


def _picture_share(chunk: Chunk, name: str) -> float:
    column = chunk.columns[name].drop_null()
    return mask(pc.match_substring_regex(column, PICTURE)).sum() / max(len(column), 1)
