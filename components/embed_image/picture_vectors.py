"""Finds the catalogue's images, embeds each distinct one once, and yields vectors per item.

N items, U distinct images, D components
"""

import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.embed_image.pictures import (
    ABSENT,
    Geometry,
    content_key,
    load_picture,
)
from macrec.compute.sharding import shard_range
from macrec.core.artifact import Artifact, Source
from macrec.core.errors import UserError, check
from macrec.core.progress import Progress, log
from macrec.data.embedding_cache import KEY, EmbeddingCache
from macrec.data.embeddings import MISSING, OK, ROWS_AT_ONCE, Vectors, allocate_on_disk
from macrec.data.picture_files import search_pictures

BATCHES_AHEAD = 3


class Pictures(NamedTuple):
    """The distinct images of a catalogue."""

    root: str
    uris: list[str]
    paths: list[Path]
    """[U]"""
    of_item: np.ndarray
    """int64 [N]: index of each item's image, -1 for none."""
    named: int
    """Number of images of the whole catalogue, also if `uris` is a part of them."""
    found: int
    """How many of these are in the folder."""


class EmbeddedImages(NamedTuple):
    """The vectors of the distinct images."""

    matrix_UD: np.ndarray
    status: np.ndarray
    """Object array [U]: "ok", or the reason why there is no vector."""
    cached_U: np.ndarray
    """bool [U]: whether the vector was in the cache."""
    images_per_second: float
    """Speed for the images that were not in the cache."""


class Encoder(Protocol):
    """The interface of the image model."""

    dim: int
    geometry: Geometry

    def encode(self, pixels: list[np.ndarray]) -> np.ndarray:
        """Return float32 [B, D] for images of uint8 [side, side, 3]."""
        ...


def find_pictures(items: Artifact, images: Source, max_missing: float, shard: str = "") -> Pictures:
    """List the catalogue's images, or one of N parts of them; no file is opened.

    The whole catalogue is checked for absent files, so that the first part fails, not the last.

    Raises:
        UserError: no item names an image, a path leaves the folder, or a larger share than
            `max_missing` of the images is absent.
    """
    column = items.table(["image_uri"]).column(0).combine_chunks().dictionary_encode()
    uris: list[str] = column.dictionary.to_pylist()
    check(
        bool(uris),
        f"images: none of {items.rows:,} items has a picture. Set prepare_data.image_column to the "
        "catalogue's column of image paths, or give no image encoder.",
    )
    root = images.path()
    search = search_pictures(root, uris, images.uri)
    if problem := search.problem(max_missing):
        raise UserError(problem)
    log.info("embed_image: %s", search.summary())
    if warning := search.warning():
        log.warning("%s", warning)
    of_item = np.asarray(pc.fill_null(column.indices, -1)).astype(np.int64)
    part = shard_range(shard, len(uris))
    uris = uris[part.start : part.stop]
    of_item = np.where((of_item >= part.start) & (of_item < part.stop), of_item - part.start, -1)
    paths = [root / uri for uri in uris]
    return Pictures(images.uri, uris, paths, of_item, len(search.uris), search.found)


def embed_pictures(
    pictures: Pictures,
    encoder: Encoder,
    cache: EmbeddingCache,
    *,
    max_bad: float,
    max_pixels: int,
    batch: int,
    threads: int = 0,
    part: bool = False,
) -> EmbeddedImages:
    """Decode images in threads while the model works; a failed image gets a reason and no vector.

    An image whose vector is in the cache is neither decoded nor embedded. If only a part of the
    images is embedded, any number may fail; the task that embeds all of them checks the limit.

    Raises:
        UserError: a larger share than `max_bad` is unusable.
    """
    total, started = len(pictures.paths), time.monotonic()
    matrix_UD = allocate_on_disk(total, encoder.dim)
    status = np.full(total, OK, object)
    counts: Counter[str] = Counter()
    with Progress("embed_image", total, "pictures") as progress:
        keys = _keys(pictures.paths, threads) if cache.is_enabled else pa.nulls(total, KEY)
        cached_U = _take_cached(cache, keys, matrix_UD)
        new = np.flatnonzero(~cached_U)
        progress.advance(total - len(new))
        decoded = _decode(pictures.paths, new, encoder.geometry, max_pixels, batch, threads)
        for rows, results in decoded:
            failed = {r: why for r, why in zip(rows, results, strict=True) if isinstance(why, str)}
            for row, reason in failed.items():
                status[row] = reason
                counts[reason] += 1
            if good := [row for row in rows if row not in failed]:
                vectors_BD = encoder.encode([r for r in results if not isinstance(r, str)])
                matrix_UD[good] = vectors_BD  # by row, so a failed image shifts no other vector
                _keep(cache, keys, good, vectors_BD)
            _refuse_too_many(pictures, status, counts, 1.0 if part else max_bad)
            progress.advance(len(rows))
    if counts:
        log.warning("images: without a vector: %s", _name_refused(pictures, status, counts))
    return EmbeddedImages(
        matrix_UD, status, cached_U, len(new) / max(time.monotonic() - started, 1e-9)
    )


def _keys(paths: list[Path], threads: int) -> pa.Array:
    """Return the SHA-256 of every image file; null for a file that cannot be an image."""
    with ThreadPoolExecutor(threads or _cores()) as pool:
        return pa.array(pool.map(content_key, paths), KEY)


def _take_cached(cache: EmbeddingCache, keys: pa.Array, matrix_UD: np.ndarray) -> np.ndarray:
    """Fill in the vectors that the cache holds, and return which rows those are."""
    row_U, found = cache.find(keys)
    for start in range(0, len(row_U) if found is not None else 0, ROWS_AT_ONCE):
        here = start + np.flatnonzero(row_U[start : start + ROWS_AT_ONCE] >= 0)
        if len(here):
            assert found is not None
            matrix_UD[here] = found[row_U[here]]
    return row_U >= 0


def _keep(cache: EmbeddingCache, keys: pa.Array, rows: list[int], vectors_BD: np.ndarray) -> None:
    named = [(key, at) for at, row in enumerate(rows) if (key := keys[row].as_py()) is not None]
    cache.add([key for key, _ in named], vectors_BD[[at for _, at in named]])


def _decode(
    paths: list[Path],
    chosen: np.ndarray,
    geometry: Geometry,
    max_pixels: int,
    batch: int,
    threads: int,
) -> Iterator[tuple[list[int], list[np.ndarray | str]]]:
    """Yield (rows, pixels or reasons) of the chosen rows in order, a few batches decoded ahead."""
    waiting: deque[tuple[list[int], list[Future[np.ndarray | str]]]] = deque()
    pool = ThreadPoolExecutor(threads or _cores())
    try:
        for start in range(0, len(chosen), batch):
            rows = chosen[start : start + batch].tolist()
            jobs = [pool.submit(load_picture, paths[row], geometry, max_pixels) for row in rows]
            waiting.append((rows, jobs))
            if len(waiting) > BATCHES_AHEAD:
                first, ready = waiting.popleft()
                yield first, [job.result() for job in ready]
        for first, ready in waiting:
            yield first, [job.result() for job in ready]
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _refuse_too_many(
    pictures: Pictures, status: np.ndarray, counts: Counter[str], max_bad: float
) -> None:
    bad = counts.total() - counts[ABSENT]
    if bad > max_bad * len(pictures.paths):
        raise UserError(
            f"images: at least {bad:,} of {len(pictures.paths):,} pictures are unusable and "
            f"embed_image.max_bad_images={max_bad:g} allows "
            f"{int(max_bad * len(pictures.paths)):,}: {_name_refused(pictures, status, counts)}. "
            "Replace them, or raise embed_image.max_bad_images."
        )


def _name_refused(pictures: Pictures, status: np.ndarray, counts: Counter[str]) -> str:
    """Return the counts by reason, and the first ten images."""
    broken = (status != OK) & (status != ABSENT)
    first = np.flatnonzero(broken if broken.any() else status != OK)
    by_reason = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))
    return f"{by_reason} ({', '.join(f'{pictures.uris[i]}: {status[i]}' for i in first[:10])})"


def item_counts(pictures: Pictures, embedded: EmbeddedImages) -> dict[str, float]:
    """Return how many items were embedded by the model, and how many were in the cache."""
    of_item = pictures.of_item[pictures.of_item >= 0]
    cached, good = embedded.cached_U[of_item], embedded.status[of_item] == OK
    return {"embedded_items": float((good & ~cached).sum()), "cached_items": float(cached.sum())}


def item_vectors(pictures: Pictures, embedded: EmbeddedImages) -> Iterator[Vectors]:
    """Yield the vectors in item order; items with the same image share its vector."""
    for start in range(0, len(pictures.of_item), ROWS_AT_ONCE):
        of_item = pictures.of_item[start : start + ROWS_AT_ONCE]
        status = np.where(of_item >= 0, embedded.status[of_item], MISSING).astype(object)
        yield Vectors(np.asarray(embedded.matrix_UD[of_item]), status)
