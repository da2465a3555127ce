"""The catalogue's pictures: found, each embedded once, handed back item by item.

N items, U distinct pictures, D components
"""

import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow.compute as pc

from components.embed_image.pictures import ABSENT, Geometry, inside_root, load_picture
from macrec.artifact import Artifact, Source
from macrec.embeddings import MISSING, OK, ROWS_AT_ONCE, Vectors, spooled_matrix
from macrec.errors import UserError, check
from macrec.stage import Progress, log

BATCHES_AHEAD = 3


class Pictures(NamedTuple):
    """The distinct pictures of a catalogue."""

    root: str
    uris: list[str]
    paths: list[Path]
    """[U]"""
    of_item: np.ndarray
    """int64 [N]: which picture an item has, -1 = none."""


class Embedded(NamedTuple):
    """Vectors of the distinct pictures."""

    matrix_UD: np.ndarray
    status: np.ndarray
    """Object array [U]: "ok" or the reason why there is no vector."""
    images_per_second: float


class Encoder(Protocol):
    """What the model does here."""

    dim: int
    geometry: Geometry

    def encode(self, pixels: list[np.ndarray]) -> np.ndarray:
        """uint8 [side, side, 3] each -> float32 [B, D]."""
        ...


def find_pictures(items: Artifact, images: Source) -> Pictures:
    """Lists the catalogue's pictures; no file is opened.

    Raises:
        UserError: no item names a picture, or a path leaves the folder.
    """
    column = items.table(["image_uri"]).column(0).combine_chunks().dictionary_encode()
    uris: list[str] = column.dictionary.to_pylist()
    check(bool(uris), f"images: none of {items.rows:,} items names a picture (image_uri).")
    of_item = np.asarray(pc.fill_null(column.indices, -1)).astype(np.int64)
    paths = inside_root(images.path(), uris)
    return Pictures(images.uri, uris, paths, of_item)


def embed_pictures(
    pictures: Pictures,
    encoder: Encoder,
    *,
    max_bad: float,
    max_pixels: int,
    batch: int,
    threads: int = 0,
) -> Embedded:
    """Decodes in threads while the model works. A failed picture gets a reason and no vector.

    Raises:
        UserError: a larger share than `max_bad` is unusable, or no picture is there at all.
    """
    total, started = len(pictures.paths), time.monotonic()
    matrix_UD = spooled_matrix(total, encoder.dim)
    status = np.full(total, OK, object)
    counts: Counter[str] = Counter()
    decoded = _decoded(pictures.paths, encoder.geometry, max_pixels, batch, threads)
    with Progress("embed_image", total, "pictures") as progress:
        for start, results in decoded:
            good = [(start + i, r) for i, r in enumerate(results) if not isinstance(r, str)]
            for i, result in enumerate(results):
                if isinstance(result, str):
                    status[start + i] = result
                    counts[result] += 1
            if good:  # rows go by their own index: a failed one shifts nobody
                rows = [row for row, _ in good]
                matrix_UD[rows] = encoder.encode([pixels for _, pixels in good])
            _refuse_too_many(pictures, status, counts, max_bad)
            progress.advance(len(results))
    check(
        counts[ABSENT] < total,
        f"images: none of {total:,} pictures is in {pictures.root} (first: {pictures.uris[0]}). "
        "Check the folder and image_uri.",
    )
    if counts:
        log.warning("images: without a vector: %s", _named(pictures, status, counts))
    return Embedded(matrix_UD, status, total / max(time.monotonic() - started, 1e-9))


def _decoded(
    paths: list[Path], geometry: Geometry, max_pixels: int, batch: int, threads: int
) -> Iterator[tuple[int, list[np.ndarray | str]]]:
    """Batches of (first index, pixels or reasons) in order, a few decoded ahead."""
    waiting: deque[tuple[int, list[Future[np.ndarray | str]]]] = deque()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool = ThreadPoolExecutor(threads or cores)
    try:
        for start in range(0, len(paths), batch):
            part = paths[start : start + batch]
            jobs = [pool.submit(load_picture, path, geometry, max_pixels) for path in part]
            waiting.append((start, jobs))
            if len(waiting) > BATCHES_AHEAD:
                first, ready = waiting.popleft()
                yield first, [job.result() for job in ready]
        for first, ready in waiting:
            yield first, [job.result() for job in ready]
    finally:
        pool.shutdown(cancel_futures=True)


def _refuse_too_many(
    pictures: Pictures, status: np.ndarray, counts: Counter[str], max_bad: float
) -> None:
    bad = counts.total() - counts[ABSENT]
    if bad > max_bad * len(pictures.paths):
        raise UserError(
            f"images: at least {bad:,} of {len(pictures.paths):,} pictures are unusable and "
            f"max_bad_images={max_bad:g} allows {int(max_bad * len(pictures.paths)):,}: "
            f"{_named(pictures, status, counts)}. Replace them, or raise max_bad_images."
        )


def _named(pictures: Pictures, status: np.ndarray, counts: Counter[str]) -> str:
    """Counts by reason, and the first ten pictures."""
    broken = (status != OK) & (status != ABSENT)
    first = np.flatnonzero(broken if broken.any() else status != OK)
    by_reason = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))
    return f"{by_reason} ({', '.join(f'{pictures.uris[i]}: {status[i]}' for i in first[:10])})"


def item_vectors(pictures: Pictures, embedded: Embedded) -> Iterator[Vectors]:
    """The items' vectors in item order; items of one picture share its vector."""
    for start in range(0, len(pictures.of_item), ROWS_AT_ONCE):
        of_item = pictures.of_item[start : start + ROWS_AT_ONCE]
        status = np.where(of_item >= 0, embedded.status[of_item], MISSING).astype(object)
        yield Vectors(np.asarray(embedded.matrix_UD[of_item]), status)
