"""Batches of histories: windows for training, padded matrices, batches of similar lengths.

Shape suffixes: U users, W windows, B rows of a batch, S positions of the longest row.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.baselines.interface import Int32Array
from macrec.data.sequences import Sequences

Int64Array = npt.NDArray[np.int64]


class Windows(NamedTuple):
    """Windows of the flat array of items."""

    items: Int32Array
    start_W: Int64Array
    length_W: Int64Array
    first_W: Int64Array
    """Position in the window of the first target that no earlier window of the history contains."""

    def __len__(self) -> int:
        return len(self.start_W)


class Rows(NamedTuple):
    """A batch of windows as a matrix, padded at the end."""

    item_BS: Int64Array
    length_B: Int64Array
    first_B: Int64Array

    @property
    def real_BS(self) -> npt.NDArray[np.bool_]:
        """Mask of the positions that are not padding, bool [B, S]."""
        return np.arange(self.item_BS.shape[1]) < self.length_B[:, None]


def windows(training: Sequences, targets: int) -> Windows:
    """Split each history into windows of `targets` + 1 items, from its end backwards.

    The step is half of `targets`. Every item except the first of a history is the target of exactly
    one window. There it has at least `targets` // 2 items before it, or all that exist. Histories
    of one item have no window.
    """
    step = max(targets // 2, 1)
    length_U = np.diff(training.offsets)
    beyond_U = np.maximum(length_U - 1 - targets, 0)
    count_U = np.where(length_U < 2, 0, 1 + -(-beyond_U // step))
    user_W = np.repeat(np.arange(len(length_U)), count_U)
    from_end_W = np.arange(len(user_W)) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    end_W = length_U[user_W] - from_end_W * step
    start_W = np.maximum(end_W - targets - 1, 0)
    length_W = end_W - start_W
    first_W = np.where(start_W == 0, 1, length_W - step)
    return Windows(training.items, training.offsets[user_W] + start_W, length_W, first_W)


def shuffle_windows(
    found: Windows, batch_size: int, padding: int, generator: np.random.Generator
) -> Iterator[Rows]:
    """Yield every window once, in batches of similar length and in random order."""
    order_W = np.lexsort((generator.random(len(found)), found.length_W))
    starts = np.arange(0, len(found), batch_size)
    for start in generator.permutation(starts):
        chosen_B = order_W[start : start + batch_size]
        length_B = found.length_W[chosen_B]
        place_BS = found.start_W[chosen_B, None] + np.arange(length_B.max())
        item_BS = found.items[np.minimum(place_BS, len(found.items) - 1)].astype(np.int64)
        rows = Rows(item_BS, length_B, found.first_W[chosen_B])
        rows.item_BS[~rows.real_BS] = padding
        yield rows


def pad_histories(histories: Sequence[Int32Array], padding: int) -> Rows:
    """Return histories as a padded matrix without targets."""
    length_B = np.array([len(history) for history in histories])
    rows = Rows(
        np.full((len(histories), length_B.max()), padding, np.int64), length_B, length_B.copy()
    )
    rows.item_BS[rows.real_BS] = np.concatenate(histories)
    return rows


def draw_items(rows: Rows, share: float, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Select a random fraction of the items, at least one per row, bool [B, S]."""
    drawn_BS = np.where(rows.real_BS, generator.random(rows.item_BS.shape), 2.0)
    return (drawn_BS < share) | (drawn_BS == drawn_BS.min(axis=1, keepdims=True))
