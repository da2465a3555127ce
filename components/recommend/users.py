"""Yields the users to recommend for, in the order of the sequences, a bounded number at a time.

Shapes: U users, L ids of a list, K interactions.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from components.recommend.id_lists import read_ids, warn_of_unknown
from macrec.core.artifact import Artifact, Source
from macrec.core.errors import check
from macrec.core.progress import log

pc: Any = pyarrow.compute  # its functions are created at import, so type checkers cannot see them

COLUMNS = ["user_id", "item_index"]


class Shard(NamedTuple):
    """A block of consecutive users to recommend for."""

    first: int
    user_ids: pa.Array
    histories: list[npt.NDArray[np.int32]]

    @property
    def name(self) -> str:
        """The name of the shard, which identifies its users."""
        return f"users-{self.first:010d}-{len(self.user_ids):07d}"


class Users:
    """The users of the sequences, or those of them that are listed.

    Users without a history are left out. A first pass over the sequences counts the users and finds
    all problems before any model is loaded.

    Raises:
        UserError: an interaction names an item outside 0..items-1, the list cannot be read, or
            there is no user to recommend for.
    """

    def __init__(self, sequences: Artifact, items: int, listed: Source | None) -> None:
        self._sequences = sequences
        self._listed_L = read_ids(listed, "user_id") if listed else None
        self.count = self.without_history = self.unknown = 0
        outside = interactions = 0
        known_L = np.zeros(0 if self._listed_L is None else len(self._listed_L), bool)
        for batch in sequences.batches(COLUMNS):
            item_K = batch.column(1).flatten().to_numpy()
            interactions += len(item_K)
            outside += int(((item_K < 0) | (item_K >= items)).sum())
            if self._listed_L is not None:
                known_L |= _rows(self._listed_L, batch) >= 0
            chosen_U, able_U = self._chosen(batch), _with_history(batch)
            self.count += int((chosen_U & able_U).sum())
            self.without_history += int((chosen_U & ~able_U).sum())
        check(
            outside == 0,
            f"{sequences.path}: {outside:,} of {interactions:,} interactions refer to items "
            "outside "
            f"0..{items - 1}, the catalogue. Give the artifacts of one run.",
        )
        if listed and self._listed_L is not None:
            self.unknown = warn_of_unknown(listed, self._listed_L, known_L, "user")
        problem = f"{sequences.path}: {self.without_history:,} users have no interaction"
        check(self.count > 0, f"{problem} and there are no others, so there is nobody to rank for.")
        if self.without_history:
            log.warning("%s and get no list", problem)

    def shards(self, size: int) -> Iterator[Shard]:
        """Yield all users in shards of `size`; the last shard contains the rest."""
        first, waiting = 0, None
        for batch in self._sequences.batches(COLUMNS):
            mine = batch.filter(pa.array(self._chosen(batch) & _with_history(batch)))
            more = pa.Table.from_batches([mine])
            waiting = more if waiting is None else pa.concat_tables([waiting, more])
            while waiting.num_rows >= size:
                yield _shard(first, waiting[:size])
                first, waiting = first + size, waiting[size:]
        if waiting is not None and waiting.num_rows:
            yield _shard(first, waiting)

    def _chosen(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Return which users of the batch are listed; all of them without a list."""
        if self._listed_L is None:
            return np.ones(batch.num_rows, bool)
        chosen_U = np.zeros(batch.num_rows, bool)
        row_L = _rows(self._listed_L, batch)
        chosen_U[row_L[row_L >= 0]] = True
        return chosen_U


def _rows(listed_L: pa.Array, batch: pa.RecordBatch) -> npt.NDArray[np.integer]:
    """Return the row of each listed user in the batch, -1 for a user who is not in it."""
    # The batch is the value set, so its hash table is small even for a long list.
    return pc.index_in(listed_L, value_set=batch.column(0)).fill_null(-1).to_numpy()


def _with_history(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    return batch.column(1).value_lengths().fill_null(0).to_numpy() > 0


def _shard(first: int, users: pa.Table) -> Shard:
    lists = users.column("item_index").combine_chunks()
    items_K, length_U = lists.flatten().to_numpy(), lists.value_lengths().to_numpy()
    histories = np.split(items_K, np.cumsum(length_U)[:-1])
    return Shard(first, users.column("user_id").combine_chunks(), histories)
