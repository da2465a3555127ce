"""Yields the catalogue's text vectors: from the cache by content, and embeds the others."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from components.embed_text.text_encoder import TextEncoder
from macrec.compute.sharding import shard_range
from macrec.core.artifact import Artifact
from macrec.core.progress import Progress
from macrec.data.embedding_cache import KEY, EmbeddingCache
from macrec.data.embeddings import OK, ROWS_AT_ONCE, Vectors


class TextVectors:
    """Yields the items' vectors in order, one window at a time, so that sorting fits in memory.

    Attributes:
        cached: number of items so far whose vector was in the cache.
        embedded: number of items so far whose text was embedded.
    """

    def __init__(
        self, encoder: TextEncoder, items: Artifact, cache: EmbeddingCache, shard: str = ""
    ) -> None:
        self._encoder, self._items, self._cache = encoder, items, cache
        self._rows = shard_range(shard, items.rows)
        self.cached = self.embedded = 0

    def __iter__(self) -> Iterator[Vectors]:
        """Yield the vectors of each window.

        Raises:
            UserError: the model cannot read that many tokens.
        """
        found = self._cache.find(self._keys())
        start = 0
        with Progress("embed_text", len(self._rows), "items") as progress:
            for texts in self._windows():
                row_N = found.row_K[start : start + len(texts)]
                start += len(texts)
                new, old = np.flatnonzero(row_N < 0), np.flatnonzero(row_N >= 0)
                made = self._compute([texts[row] for row in new], progress)
                matrix_ND = np.zeros((len(texts), self._encoder.dim), np.float32)
                status = np.full(len(texts), OK, object)
                matrix_ND[new], status[new] = made
                if found.matrix is not None and len(old):
                    matrix_ND[old] = found.matrix[row_N[old]]
                    progress.advance(len(old))
                self.cached += len(old)
                self.embedded += int((made.status == OK).sum())
                yield Vectors(matrix_ND, status)

    def _compute(self, texts: list[str], progress: Progress) -> Vectors:
        def keep(rows: list[int], vectors_BD: np.ndarray) -> None:
            self._cache.add([content_key(texts[row]) for row in rows], vectors_BD)

        return self._encoder.encode(texts, progress, keep)

    def _keys(self) -> pa.Array:
        """Return the key of every item; null without text, and null for all without a cache."""
        if not self._cache.is_enabled:
            return pa.nulls(len(self._rows), KEY)
        parts = [
            pa.array([content_key(text) if text.strip() else None for text in texts], KEY)
            for texts in self._windows()
        ]
        return pa.concat_arrays(parts) if parts else pa.array([], KEY)

    def _windows(self) -> Iterator[list[str]]:
        start = 0
        for batch in self._items.batches(["text"], ROWS_AT_ONCE):
            first, end = (max(row - start, 0) for row in (self._rows.start, self._rows.stop))
            yield batch.column(0)[first:end].to_pylist()
            start += len(batch)


def content_key(text: str) -> bytes:
    """Return the cache key of a text; it does not depend on what the model makes of the text."""
    return hashlib.sha256(text.encode()).digest()
