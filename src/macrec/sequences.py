"""The users' histories as flat arrays, and which part of them may be learned from.

Shape suffixes: U users, K interactions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from macrec.artifact import Artifact
from macrec.errors import check


@dataclass(frozen=True)
class Sequences:
    """Interactions of all users end to end; those of user u are items[offsets[u]:offsets[u+1]]."""

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def in_training(self) -> npt.NDArray[np.bool_]:
        """All interactions but the last two of each user, bool [K]: those are the targets of
        validation and test."""
        end_K = np.repeat(self.offsets[1:] - 2, np.diff(self.offsets))
        return np.arange(len(self.items)) < end_K


def read_sequences(sequences: Artifact, items: int) -> Sequences:
    """All interactions, users in the order of the artifact.

    Raises:
        UserError: an interaction names an item outside 0..items-1.
    """
    parts, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for batch in sequences.batches(["item_index"]):
        lists = batch.column(0)
        parts.append(lists.flatten().to_numpy())
        lengths.append(lists.value_lengths().to_numpy().astype(np.int64))
    item_K, length_U = np.concatenate(parts), np.concatenate(lengths)
    outside = int(((item_K < 0) | (item_K >= items)).sum())
    check(
        outside == 0,
        f"{sequences.path}: {outside:,} of {len(item_K):,} interactions name items outside "
        f"0..{items - 1}, the catalogue. Give the artifacts of one prepare_data.",
    )
    offsets = np.zeros(len(length_U) + 1, np.int64)
    np.cumsum(length_U, out=offsets[1:])
    return Sequences(item_K, offsets)
