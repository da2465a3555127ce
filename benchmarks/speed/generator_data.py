"""Data for the speed benchmarks: published codes, or random ones of the same size."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.data import published
from components.train.inputs import read_codes
from macrec.data.sequences import Sequences, read_sequences
from macrec.generator.tokens import Int32Array, Vocabulary

ITEMS, USERS, LEVELS = 6250, 17_112, 4  # size of Musical Instruments


class Data(NamedTuple):
    """Histories, text codes and image codes [N, L], and their vocabulary."""

    name: str
    sequences: Sequences
    codes: tuple[Int32Array, Int32Array]
    vocabulary: Vocabulary

    def histories(self) -> list[Int32Array]:
        """Return the items of each user."""
        return np.split(self.sequences.items, self.sequences.offsets[1:-1])


def load(source: Path | None) -> Data:
    """Return the data of a folder with published codes, or random histories and codes for None."""
    if source is None:
        return _random()
    with tempfile.TemporaryDirectory() as folder:
        data = published.write(source, Path(folder))
        codes, vocabulary = read_codes(data.semantic_ids)
        sequences = read_sequences(data.sequences, data.items.rows)
        return Data(source.name, sequences, codes, vocabulary)


def _random() -> Data:
    rng = np.random.default_rng(0)
    length_U = 5 + rng.geometric(0.25, USERS) - 1  # mean 8 interactions, minimum 5
    offsets = np.concatenate([[0], np.cumsum(length_U)])
    items = rng.integers(0, ITEMS, offsets[-1]).astype(np.int32)
    codes = tuple(
        published.resolve(
            rng.integers(0, published.CODEBOOK_SIZE, (ITEMS, LEVELS)).astype(np.int32),
            published.CODEBOOK_SIZE,
        ).codes_NL
        for _ in range(2)
    )
    vocabulary = Vocabulary(LEVELS, published.CODEBOOK_SIZE)
    return Data("random", Sequences(items, offsets), (codes[0], codes[1]), vocabulary)
