"""Leave-one-out split of each user's sequence into training, validation and test.

Shape suffixes: T test users, V validation users.
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
    """Histories, and for each one the item that follows it (the target)."""

    histories: list[Int32Array]
    targets_T: Int32Array


class Split(NamedTuple):
    """The interactions of all users, and the users who can be tested."""

    user_ids: pa.Array
    sequences: Sequences
    users_T: Int64Array
    """Users who can be tested: they have at least two interactions."""

    @property
    def without_history(self) -> int:
        """Return the number of users who cannot be tested, with at most one interaction."""
        return len(self.user_ids) - len(self.users_T)

    def test(self, users_T: Int64Array) -> Cases:
        """Return test cases: the last item of each user, with all items before it as history."""
        return self._held_out(users_T, 1)

    def validation(self, limit: int, generator: np.random.Generator) -> Cases:
        """Return validation cases: the last item but one, with all items before it as history.

        At most `limit` random users are selected; 0 selects all. A user needs at least three
        interactions.
        """
        users_V = np.flatnonzero(np.diff(self.sequences.offsets) >= 3)
        if limit and limit < len(users_V):
            users_V = np.sort(generator.choice(users_V, limit, replace=False))
        return self._held_out(users_V, 2)

    def training(self) -> Sequences:
        """Return the sequences of all users without the last two interactions of each."""
        return self.sequences.training()

    def _held_out(self, users: Int64Array, back: int) -> Cases:
        items, offsets = self.sequences.items, self.sequences.offsets
        place = offsets[users + 1] - back
        spans = zip(offsets[users], place, strict=True)
        return Cases([items[first:last] for first, last in spans], items[place])


def read_split(sequences: Artifact, items: int) -> Split:
    """Return the split of all sequences, with users in the order of the artifact.

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
