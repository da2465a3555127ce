"""Reads and checks the catalogue, and writes the items that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.prepare_data.findings import Tally, mask, pc
from components.prepare_data.markup import strip_markup
from components.prepare_data.readers import TEXT, Chunk, Reader, is_blank, text_options
from components.prepare_data.source_problems import (
    describe_files,
    describe_unused,
    source_problems,
    warn_of_empty_files,
)
from components.prepare_data.spec import Settings, template_parts
from components.prepare_data.text_rows import Kind

ROWS = 8_192  # descriptions are long
GROUP_BYTES = 128 << 20  # texts written in one row group
# Matches an absolute path, a drive, a URL, or a step to a parent folder.
LEAVES_ROOT = r"^[/\\]|^[A-Za-z]:[/\\]|^[A-Za-z][\w+.\-]*://|^(file|data):|(^|[/\\])\.\.([/\\]|$)"


@dataclass
class Catalogue:
    """The result of one pass over the catalogue. Row k of each array is the catalogue's row k."""

    ids: pa.LargeStringArray
    has_image: np.ndarray
    has_text: np.ndarray
    problems: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    files: list[str] = field(default_factory=list[str])
    """Every file that was read, with its rows, in the order of reading."""
    unused: str = ""
    """A line about the columns that no setting names; empty without any."""
    look_alikes: int = 0


def text_columns(config: Settings) -> tuple[str, ...]:
    """Return the columns that are joined into the text; the default is title and description."""
    if config.text_columns == type(config).text_columns:
        return (config.title_column, "description")
    return config.text_columns


def _settings(config: Settings) -> dict[str, str]:
    """Return the setting that names each column to read."""
    settings = {name: "text_columns" for name in text_columns(config)}
    setting = "image_path" if config.image_path else "image_column"
    settings |= dict.fromkeys(image_kinds(config), setting)
    return {
        **settings,
        config.title_column: "title_column",
        config.item_id_column: "item_id_column",
    }


def _optional(config: Settings) -> set[str]:
    """Return the columns that may be absent: those named only by a default value."""
    optional: set[str] = set()
    if config.text_columns == type(config).text_columns:
        optional.add("description")
    if config.image_column == type(config).image_column and not config.image_path:
        optional.add(config.image_column)
    return optional - {config.item_id_column, config.title_column}


def image_kinds(config: Settings) -> dict[str, Kind]:
    """Return the columns that `image_paths` needs, with their roles."""
    if config.image_path:
        return {column: "text" for _, column, _ in template_parts(config.image_path) if column}
    return {config.image_column: "path"} if config.image_column else {}


def _kinds(config: Settings) -> dict[str, Kind]:
    kinds: dict[str, Kind] = dict.fromkeys(_settings(config), "text")
    return {**kinds, **image_kinds(config), config.item_id_column: "id"}


def open_catalogue(config: Settings, path: Path, batch_rows: int = ROWS) -> Reader:
    """Return a reader of the catalogue.

    Raises:
        UserError: there is no data at the path.
    """
    return Reader(path, batch_rows, text_options(config, config.catalog_columns))


def read_chunks(
    config: Settings, reader: Reader, kinds: Mapping[str, Kind] | None = None
) -> Iterator[Chunk]:
    """Yield the catalogue's rows; the title and the texts are without HTML, unless it is kept.

    Args:
        config: the stage's settings.
        reader: a reader of the catalogue.
        kinds: the columns to read, with their roles; the default is all that the stage needs.
    """
    cleaned = {config.title_column, *text_columns(config)}
    cleaned -= {config.item_id_column, config.image_column}
    for chunk in reader.chunks(kinds or _kinds(config)):
        if not config.keep_markup:
            for name in cleaned & set(chunk.columns):
                chunk.columns[name], changed = strip_markup(chunk.columns[name])
                reader.notes.add(name, "markup", changed, chunk.where)
        yield chunk


class _Scan:
    """Collects results over the chunks of a pass."""

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.ids: list[pa.Array] = []
        self.has_image: list[np.ndarray] = []
        self.has_text: list[np.ndarray] = []
        self.no_id, self.bad_path, self.no_image = Tally(), Tally(), Tally()

    def add(self, chunk: Chunk) -> None:
        ids = chunk.columns[self.config.item_id_column]
        image = image_paths(self.config, chunk)
        self.no_id.add_rows(is_blank(ids), chunk.where)
        self.bad_path.add_rows(
            mask(pc.match_substring_regex(image, LEAVES_ROOT)),
            lambda row: f"{chunk.where(row)}: {image[row].as_py()[:80]!r}",
        )
        has_image = mask(image.is_valid())
        self.no_image.add_rows(~has_image, lambda row: str(ids[row].as_py()))
        self.ids.append(ids)
        self.has_image.append(has_image)
        self.has_text.append(mask(pc.not_equal(joined_text(self.config, chunk), "")))

    def catalogue(self) -> Catalogue:
        if not self.ids:
            return Catalogue(pa.array([], TEXT), np.zeros(0, bool), np.zeros(0, bool))
        arrays = np.concatenate(self.has_image), np.concatenate(self.has_text)
        return Catalogue(pa.concat_arrays(self.ids), *arrays)


def read_catalogue(config: Settings, path: Path) -> Catalogue:
    """Read the catalogue in one pass and find all its problems.

    Raises:
        UserError: there is no data at the path.
    """
    reader, scan = open_catalogue(config, path), _Scan(config)
    for chunk in read_chunks(config, reader):
        scan.add(chunk)
    found = scan.catalogue()
    found.files = describe_files(reader)
    found.unused = describe_unused(reader, _settings(config))
    found.warnings += warn_of_empty_files(reader)
    found.warnings += reader.notes.warnings(reader.name, _settings(config))
    rows = len(found.ids)
    found.problems += source_problems(reader, rows, _settings(config), _optional(config))
    if reader.has(config.item_id_column):
        found.problems += _id_problems(reader.name, config, found.ids, scan.no_id)
        _warn_of_look_alikes(reader.name, found)
    if scan.bad_path.count:
        found.problems.append(
            f"{reader.name}: {scan.bad_path.count:,} image paths leave the image folder "
            f"{scan.bad_path.examples}. Give paths below it, without '..', drive or scheme."
        )
    if config.missing_image == "fail" and scan.no_image.count:
        found.problems.append(
            f"{reader.name}: {scan.no_image.count:,} of {rows:,} items have no image "
            f"{scan.no_image.examples}. Set prepare_data.missing_image to keep, or to drop, which "
            "leaves them out."
        )
    if not found.problems and not found.has_text.any():
        joined = ", ".join(text_columns(config))
        found.warnings.append(f"{reader.name}: no item has any text (text_columns: {joined}).")
    return found


def _id_problems(name: str, config: Settings, ids: pa.Array, no_id: Tally) -> Iterator[str]:
    if no_id.count:
        yield (
            f"{name}: {no_id.count:,} of {len(ids):,} rows have no item id "
            f"({config.item_id_column!r}) {no_id.examples}. Give each item an id, or remove them."
        )
    counts = pc.value_counts(ids.drop_null())
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        tally = Tally(len(repeated), repeated.field("values")[:10].to_pylist())
        rows = pc.sum(repeated.field("counts")).as_py()
        yield (
            f"{name}: {tally.count:,} item ids stand on more than one row, {rows:,} rows in all "
            f"{tally.examples}. Keep one row for each item."
        )


def look_alike_form(ids: pa.Array) -> pa.Array:
    """Return ids without invisible differences.

    Removed are case, outer white space, byte order marks and the choice of Unicode form.
    """
    plain = pc.replace_substring(ids.fill_null(""), "\ufeff", "")
    return pc.utf8_lower(pc.utf8_trim_whitespace(pc.utf8_normalize(plain, "NFC")))


def _warn_of_look_alikes(name: str, found: Catalogue) -> None:
    ids = pc.unique(found.ids.drop_null())
    codes = look_alike_form(ids).dictionary_encode().indices.to_numpy()
    alike = np.flatnonzero(np.bincount(codes)[codes] > 1) if len(codes) else codes
    if len(alike) == 0:
        return
    found.look_alikes = len(alike)
    by_form = alike[np.argsort(codes[alike], kind="stable")][:10]
    shown = ", ".join(repr(ids[int(row)].as_py()) for row in by_form)
    found.warnings.append(
        f"{name}: {len(alike):,} item ids differ only in case, outer spaces or Unicode form "
        f"(first: {shown}). They count as different items."
    )


def image_paths(config: Settings, chunk: Chunk) -> pa.Array:
    """Return the image paths of the catalogue, with / between folders; null where there is none."""
    if config.image_path:
        return fill_template(config.image_path, chunk)
    if not config.image_column:
        return pa.nulls(chunk.rows, TEXT)
    column = pc.replace_substring(chunk.columns[config.image_column], "\\", "/")
    return pc.if_else(pa.array(is_blank(column)), pa.scalar(None, TEXT), column)


def fill_template(template: str, chunk: Chunk) -> pa.Array:
    """Return the path that a template gives for each row; null where one of its columns is."""
    path = pa.repeat(pa.scalar("", TEXT), chunk.rows)
    for literal, column, width in template_parts(template):
        path = pc.binary_join_element_wise(path, pa.scalar(literal, TEXT), pa.scalar("", TEXT))
        if column:
            cells = chunk.columns[column]
            cells = pc.if_else(pa.array(is_blank(cells)), pa.scalar(None, TEXT), cells)
            if width is not None:
                cells = pc.utf8_slice_codeunits(cells, 0, width)
            path = pc.binary_join_element_wise(path, cells, pa.scalar("", TEXT))
    return path


def joined_text(config: Settings, chunk: Chunk) -> pa.Array:
    """Return the text columns joined, one per line.

    Fields that are empty, white space or "." are skipped.
    """
    text = pa.repeat(pa.scalar("", TEXT), chunk.rows)
    for name in text_columns(config):
        part = pc.utf8_trim_whitespace(chunk.columns[name].fill_null(""))
        part = pc.if_else(pc.equal(part, "."), "", part)
        joined = pc.binary_join_element_wise(text, part, pa.scalar("\n", TEXT))
        text = pc.if_else(pc.equal(text, ""), part, pc.if_else(pc.equal(part, ""), text, joined))
    return text


def item_batches(config: Settings, path: Path, keep: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Yield the items artifact in a second pass over the catalogue, one chunk in memory at a time.

    Args:
        config: the same settings as in the first pass.
        path: the same catalogue.
        keep: which rows of the catalogue are kept, bool [N].
    """
    row = index = 0
    for chunk in read_chunks(config, open_catalogue(config, path)):
        rows = pa.array(keep[row : row + chunk.rows])
        row += chunk.rows
        image = image_paths(config, chunk)
        columns = [
            chunk.columns[config.item_id_column],
            chunk.columns[config.title_column].fill_null(""),
            joined_text(config, chunk),
            image,
            image.is_valid(),
        ]
        kept = [column.filter(rows) for column in columns]
        count = len(kept[0])
        positions = pa.array(np.arange(index, index + count, dtype=np.int32))
        index += count
        names = ["item_index", "item_id", "title", "text", "image_uri", "has_image"]
        yield pa.record_batch([positions, *kept], names=names)
    assert row == len(keep), "the catalogue changed between two passes"


def regroup(
    batches: Iterable[pa.RecordBatch], rows: int, size: int = GROUP_BYTES
) -> Iterator[pa.Table]:
    """Yield the same rows, `rows` at a time, or fewer where their texts reach `size` bytes.

    The cuts depend on the rows alone, so the artifact's bytes do not depend on how the input was
    cut.
    """
    waiting: list[pa.RecordBatch] = []
    count = held = 0
    for batch in batches:
        ends_N, start = np.append(0, np.cumsum(_text_bytes(batch))), 0
        while start < batch.num_rows:
            full = int(np.searchsorted(ends_N, ends_N[start] + size - held))
            stop = min(batch.num_rows, max(full, start + 1), start + rows - count)
            waiting.append(batch.slice(start, stop - start))
            count += stop - start
            held += int(ends_N[stop] - ends_N[start])
            if count == rows or held >= size:
                yield pa.Table.from_batches(waiting).combine_chunks()
                waiting, count, held = [], 0, 0
            start = stop
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


def _text_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """Return the size of each row's texts in bytes, int64 [N]."""
    texts = [column for column in batch.columns if column.type == TEXT]
    lengths = [np.asarray(pc.binary_length(column).fill_null(0)) for column in texts]
    return np.sum(lengths, axis=0, dtype=np.int64, initial=0) + np.zeros(batch.num_rows, np.int64)
