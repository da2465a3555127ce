"""Leave-one-out: what each user's sequence gives to training, validation and test.

Shapes: U users, T test users, V validation users, K interactions.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from macrec.core.artifact import Artifact
from macrec.core.errors import check
from macrec.data.sequences import Sequences, read_sequences

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


class Cases(NamedTuple):
    """Histories and the item that followed each."""

    histories: list[Int32Array]
    targets_T: Int32Array


class Split(NamedTuple):
    """The interactions of all users, and who can be tested."""

    user_ids: pa.Array
    sequences: Sequences
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
        users_V = np.flatnonzero(np.diff(self.sequences.offsets) >= 3)
        if limit and limit < len(users_V):
            users_V = np.sort(generator.choice(users_V, limit, replace=False))
        return self._held_out(users_V, 2)

    def training(self) -> Sequences:
        """The sequences of all users without the last two interactions of each."""
        return self.sequences.training()

    def _held_out(self, users: Int64Array, back: int) -> Cases:
        items, offsets = self.sequences.items, self.sequences.offsets
        place = offsets[users + 1] - back
        spans = zip(offsets[users], place, strict=True)
        return Cases([items[first:last] for first, last in spans], items[place])


def read_split(sequences: Artifact, items: int) -> Split:
    """All sequences, users in the order of the artifact.

    Raises:
        UserError: an interaction names an item outside the catalogue, or no user has a history.
    """
    read = read_sequences(sequences, items)
    users_T = np.flatnonzero(np.diff(read.offsets) >= 2)
    check(
        len(users_T) > 0,
        f"{sequences.path}: none of {len(read):,} users has two interactions or more, so "
        "there is nobody to test. Lower min_interactions, or give a longer log.",
    )
    user_ids = sequences.table(["user_id"]).column(0).combine_chunks()
    return Split(user_ids, read, users_T)
