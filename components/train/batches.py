"""Builds batches: rows of similar length as padded token arrays, without Python code per row.

Shapes: R rows, B rows of a batch, S source length, G targets of a source, L levels, P item pairs,
or items that are predicted from a source.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from components.train.rows import Rows, TrainingData
from macrec.generator.tokens import PAD, Int64Array, gather_sources

IGNORED: Final = -100  # the label that PyTorch's cross entropy ignores
NO_TASK: Final = -1
SORT_WINDOW: Final = 50  # batches sorted by length together; more sort finer and mix less


class Batch(NamedTuple):
    """Sources with their targets; `labels_BGL` is IGNORED where a row lacks the target."""

    source_BS: Int64Array
    decoder_BGL: Int64Array  # task token, then the target's tokens without the last
    labels_BGL: Int64Array
    task_BG: Int64Array  # position in TASKS, or NO_TASK
    visible_BG: Int64Array | None = None
    """Number of first source tokens that each target is predicted from. None: the whole source."""


def epoch_batches(
    lengths_R: Int64Array, batch_size: int, generator: np.random.Generator
) -> Iterator[Int64Array]:
    """Yield every row once, in random batches of rows of similar length.

    Rows are shuffled, sorted by length within windows of SORT_WINDOW batches, and cut into batches.
    The batches are then shuffled.
    """
    order_R = generator.permutation(len(lengths_R))
    window = SORT_WINDOW * batch_size
    for first in range(0, len(order_R), window):
        part = order_R[first : first + window]
        order_R[first : first + window] = part[np.argsort(lengths_R[part], kind="stable")]
    starts = np.arange(0, len(order_R), batch_size)
    for start in generator.permutation(starts):
        yield order_R[start : start + batch_size]


def make_batch(data: TrainingData, rows: Rows, index_B: Int64Array) -> Batch:
    """Return the rows `index_B` as token arrays."""
    source_BS = gather_sources(data.stream, rows.first_R[index_B], rows.last_R[index_B])
    modality_B, item_BP = rows.modality_R[index_B], rows.targets(index_B)
    target_BPG = rows.target_modalities(index_B, item_BP)
    rows_count, items, targets = target_BPG.shape
    shape = (rows_count, items * targets)
    labels_BGL = data.target_tokens_MNL[target_BPG, item_BP[:, :, None]].reshape(*shape, -1)
    absent_BG = (target_BPG.reshape(shape) < 0) | (labels_BGL[:, :, 0] == PAD)
    decoder_BGL = np.empty_like(labels_BGL)
    decoder_BGL[:, :, 0] = np.tile(rows.table.start_SG[modality_B], items)
    decoder_BGL[:, :, 1:] = labels_BGL[:, :, :-1]
    decoder_BGL[absent_BG] = PAD
    labels_BGL[absent_BG] = IGNORED
    task_BG = np.where(absent_BG, NO_TASK, np.tile(rows.table.task_SG[modality_B], items))
    visible_BG = None
    if items > 1:
        visible_BG = np.repeat(_visible(data, rows, index_B, items), targets, axis=1)
    return Batch(source_BS, decoder_BGL, labels_BGL, task_BG, visible_BG)


def _visible(data: TrainingData, rows: Rows, index_B: Int64Array, items: int) -> Int64Array:
    """Return the number of source tokens [B, P] before each item to predict."""
    first_B1, last_B1, count_B1 = (
        column[index_B][:, None] for column in (rows.first_R, rows.last_R, rows.count_R)
    )
    end_BP = np.minimum(last_B1 - count_B1 + 1 + np.arange(items), last_B1)
    return data.stream.offsets[end_BP] - data.stream.offsets[first_B1]


def pair_batch(data: TrainingData, pairs: int, generator: np.random.Generator) -> Batch:
    """Return random distinct items as 2P sources: row k is text, row P + k is its image."""
    assert data.item_rows is not None
    total = len(data.paired_items_P)
    chosen = generator.choice(total, min(pairs, total), replace=False)
    return make_batch(data, data.item_rows, np.concatenate([chosen, total + chosen]))
