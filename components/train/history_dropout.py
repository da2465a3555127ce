"""Implements history dropout: every epoch leaves out other items of a training history.

Shapes: R rows, B rows of a batch, S source length, H items of the longest history except the last
one (column h is the item h + 2 positions before the history's end), L tokens of an item.
"""

import numpy as np
import numpy.typing as npt

from components.train.rows import Rows, TrainingData
from macrec.generator.tokens import EOS, PAD, Int64Array, TokenStream

BoolArray = npt.NDArray[np.bool_]
ROWS_AT_ONCE = 1 << 18
"""Bounds the memory of the random numbers."""


def draw_dropped(rows: Rows, share: float, generator: np.random.Generator) -> BoolArray:
    """Return which items [R, H] are left out, each with probability `share`; never the last one."""
    longest = int((rows.last_R - rows.first_R).max(initial=1))
    dropped_RH = np.empty((len(rows), longest - 1), np.bool_)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part_RH = dropped_RH[start : start + ROWS_AT_ONCE]
        np.less(generator.random(part_RH.shape, np.float32), share, out=part_RH)
    return dropped_RH


def thinned_lengths(data: TrainingData, rows: Rows, dropped_RH: BoolArray) -> Int64Array:
    """Return the source length [R] of every row without its dropped items, EOS included."""
    offsets, lengths_R = data.stream.offsets, data.lengths(rows)
    for column, dropped_R in enumerate(dropped_RH.T):
        place_R = np.maximum(rows.last_R - 2 - column, 0)
        dropped_R = dropped_R & (rows.last_R - 2 - column >= rows.first_R)
        lengths_R -= (offsets[place_R + 1] - offsets[place_R]) * dropped_R
    return lengths_R


def thinned_sources(
    stream: TokenStream, first_B: Int64Array, last_B: Int64Array, dropped_BH: BoolArray
) -> Int64Array:
    """Return source ids [B, S] of interactions first..last (last excluded) without dropped ones."""
    place_BH = last_B[:, None] - 1 - np.arange(dropped_BH.shape[1], -1, -1)  # in time order
    kept_BH = place_BH >= first_B[:, None]
    kept_BH[:, :-1] &= ~dropped_BH[:, ::-1]
    place_BH = np.maximum(place_BH, 0)
    start_BH = stream.offsets[place_BH]
    tokens_BH = (stream.offsets[place_BH + 1] - start_BH) * kept_BH
    position_L = np.arange(int(tokens_BH.max(initial=0)))
    here_BHL = position_L < tokens_BH[:, :, None]
    place_T = (start_BH[:, :, None] + position_L)[here_BHL]
    length_B = tokens_BH.sum(axis=1)
    source_BS = np.full((len(length_B), int(length_B.max(initial=0)) + 1), PAD, np.int64)
    # Both masks run through the batch row by row, so the tokens fall into their rows in order.
    source_BS[np.arange(source_BS.shape[1]) < length_B[:, None]] = stream.tokens[place_T]
    source_BS[np.arange(len(length_B)), length_B] = EOS
    return source_BS
