"""Leave-one-out: what each user's sequence gives to training, validation and test.

Shapes: U users, T test users, V validation users, K interactions.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from macrec.artifact import Artifact
from macrec.errors import check

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


class Cases(NamedTuple):
    """Histories and the item that followed each."""

    histories: list[Int32Array]
    targets_T: Int32Array


class Split(NamedTuple):
    """The interactions of all users end to end, and who can be tested."""

    user_ids: pa.Array
    item_K: Int32Array
    offset_U1: Int64Array
    """Those of user u are item_K[offset[u] : offset[u + 1]]."""
    users_T: Int64Array
    """Users with a history: two interactions or more."""

    @property
    def without_history(self) -> int:
        """Users who cannot be tested: they have one interaction or none."""
        return len(self.user_ids) - len(self.users_T)

    def test(self, users_T: Int64Array) -> Cases:
        """The last item of each user, from all before it."""
        return self._held_out(users_T, 1)

    def validation(self, limit: int, generator: np.random.Generator) -> Cases:
        """The last item but one from all before it, of at most `limit` random users (0: all)."""
        users_V = np.flatnonzero(np.diff(self.offset_U1) >= 3)
        if limit and limit < len(users_V):
            users_V = np.sort(generator.choice(users_V, limit, replace=False))
        return self._held_out(users_V, 2)

    def training_items(self) -> Int32Array:
        """Every interaction but the last two of each user."""
        first, end = self.offset_U1[:-1], self.offset_U1[1:]
        place_K = np.arange(len(self.item_K))
        return self.item_K[place_K < np.repeat(end - 2, end - first)]

    def _held_out(self, users: Int64Array, back: int) -> Cases:
        place = self.offset_U1[users + 1] - back
        spans = zip(self.offset_U1[users], place, strict=True)
        return Cases([self.item_K[first:last] for first, last in spans], self.item_K[place])


def read_split(sequences: Artifact, items: int) -> Split:
    """All sequences, users in the order of the artifact.

    Raises:
        UserError: an interaction names an item outside the catalogue, or no user has a history.
    """
    columns = sequences.table(["user_id", "item_index"]).combine_chunks()
    lists = columns.column("item_index")
    item_K = lists.combine_chunks().flatten().to_numpy().astype(np.int32)
    lengths_U = lists.combine_chunks().value_lengths().to_numpy()
    outside = int(((item_K < 0) | (item_K >= items)).sum())
    check(
        outside == 0,
        f"{sequences.path}: {outside:,} of {len(item_K):,} interactions name items outside "
        f"0..{items - 1}, the catalogue. Give the items and the sequences of one prepare_data.",
    )
    users_T = np.flatnonzero(lengths_U >= 2)
    check(
        len(users_T) > 0,
        f"{sequences.path}: none of {len(lengths_U):,} users has two interactions or more, so "
        "there is nobody to test. Lower min_interactions, or give a longer log.",
    )
    offset_U1 = np.zeros(len(lengths_U) + 1, np.int64)
    np.cumsum(lengths_U, out=offset_U1[1:])
    return Split(columns.column("user_id").combine_chunks(), item_K, offset_U1, users_T)
