"""Users' histories as flat arrays: their training part, and the items that users repeat.

Shape suffixes: U users, K interactions, P pairs of a user and an item.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from macrec.core.artifact import Artifact
from macrec.core.errors import check

Histories = Sequence[npt.NDArray[np.integer]]
SeenItems = Literal["auto", "keep", "drop"]
"""Whether a ranking may contain items of the user's history; `should_drop_seen` resolves "auto"."""
REPEATS_THAT_COUNT: Final = 0.05
"""Share of repeats from which rankings keep seen items, with "auto". Where users hardly ever buy an
item twice, a model still ranks items that they have at the top, and these places are wasted."""


@dataclass(frozen=True)
class Sequences:
    """Interactions of all users, joined; those of user u are items[offsets[u]:offsets[u+1]]."""

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def in_training(self) -> npt.NDArray[np.bool_]:
        """Return which interactions are in the training part, bool [K].

        The last two of each user are not: they are the targets of validation and test.
        """
        end_K = np.repeat(self.offsets[1:] - 2, np.diff(self.offsets))
        return np.arange(len(self.items)) < end_K

    def training(self) -> "Sequences":
        """Return the sequences of all users without the last two interactions of each."""
        length_U = np.maximum(np.diff(self.offsets) - 2, 0)
        offsets = np.concatenate([[0], np.cumsum(length_U)])
        return Sequences(self.items[self.in_training()], offsets)

    def repeat_share(self) -> float:
        """Return the share of training interactions whose item the user had before.

        The first interaction of each user does not count. The share is 0 if none are left.
        """
        training_K = self.in_training()
        user_K = np.repeat(np.arange(len(self)), np.diff(self.offsets))[training_K]
        item_K = self.items[training_K].astype(np.int64)
        first = len(np.unique(user_K))
        new = len(np.unique(user_K * (int(item_K.max(initial=0)) + 1) + item_K))
        return (len(item_K) - new) / max(len(item_K) - first, 1)


def seen_pairs(histories: Histories) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return which user has which item, each pair once: positions in `histories` [P], items [P]."""
    lengths = [len(history) for history in histories]
    user_K = np.repeat(np.arange(len(lengths)), lengths)
    item_K = np.concatenate([np.zeros(0, np.int64), *histories]).astype(np.int64)
    span = int(item_K.max(initial=0)) + 1
    return np.divmod(np.unique(user_K * span + item_K), span)


def should_drop_seen(choice: SeenItems, sequences: Sequences) -> bool:
    """Return whether rankings omit the items that the user already has.

    With "auto" they do if the repeat share is below `REPEATS_THAT_COUNT`. Only the training part is
    read, so this is valid before validation and test.
    """
    if choice == "auto":
        return sequences.repeat_share() < REPEATS_THAT_COUNT
    return choice == "drop"


def read_sequences(sequences: Artifact, items: int) -> Sequences:
    """Return all interactions, with users in the order of the artifact.

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
        f"{sequences.path}: {outside:,} of {len(item_K):,} interactions refer to items outside "
        f"0..{items - 1}, the catalogue. Give the artifacts of one prepare_data.",
    )
    offsets = np.zeros(len(length_U) + 1, np.int64)
    np.cumsum(length_U, out=offsets[1:])
    return Sequences(item_K, offsets)
