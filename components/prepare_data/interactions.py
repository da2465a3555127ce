"""Turns interactions into one time-ordered sequence per user.

Interactions are parallel arrays: `user` int32 [N], `item` int32 [N] and `micros` int64 [N] (None
for a log without timestamps). At 16 bytes per row, 100 million rows take 1.6 GB.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

SHORTEST = 3  # one item each for training, validation and test
USERS_PER_BATCH = 32_768


class Interactions(NamedTuple):
    """Which user interacted with which item, and when."""

    user: np.ndarray
    item: np.ndarray
    micros: np.ndarray | None

    @classmethod
    def empty(cls) -> "Interactions":
        """Return interactions without rows."""
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int32), None)

    def take(self, rows: np.ndarray) -> "Interactions":
        """Return the rows of a mask or an index array; the same arrays if a mask drops nothing."""
        if rows.dtype == bool and rows.all():
            return self
        micros = None if self.micros is None else self.micros[rows]
        return Interactions(self.user[rows], self.item[rows], micros)


class Round(NamedTuple):
    """The sizes between two rounds of the k-core."""

    users: int
    items: int
    interactions: int

    def __str__(self) -> str:
        return f"{self.users:,} users, {self.items:,} items, {self.interactions:,} interactions"


def in_time_order(log: Interactions) -> Interactions:
    """Return the log sorted by user, then time; equal times keep the order of the log."""
    if log.micros is None:
        return log.take(np.argsort(log.user, kind="stable"))
    return log.take(np.lexsort((log.micros, log.user)))


def without_duplicates(log: Interactions) -> Interactions:
    """Drop repeats of the same user, item and time from a sorted log; the first one is kept.

    Without timestamps no row is known to be a repeat, so all rows are kept.
    """
    if log.micros is None or len(log.user) == 0:
        return log
    same_moment = (np.diff(log.user) == 0) & (np.diff(log.micros) == 0)
    moment = np.concatenate([[0], np.cumsum(~same_moment)])
    tied = np.flatnonzero(
        np.concatenate([same_moment, [False]]) | np.concatenate([[False], same_moment])
    )
    by_item = tied[np.lexsort((log.item[tied], moment[tied]))]
    repeated = (np.diff(moment[by_item]) == 0) & (np.diff(log.item[by_item]) == 0)
    keep = np.ones(len(log.user), bool)
    keep[by_item[1:][repeated]] = False
    return log.take(keep)


def k_core(
    log: Interactions, users: int, items: int, minimum: int
) -> tuple[Interactions, list[Round]]:
    """Return the largest part of the log where each user and item has `minimum` interactions.

    Every user needs at least three interactions, because fewer cannot be split. Users and items are
    dropped in rounds until nothing changes. The second result holds the sizes before each round and
    after the last, so it has one entry more than there were rounds.
    """
    rounds: list[Round] = []
    while True:
        of_user = np.bincount(log.user, minlength=users)
        of_item = np.bincount(log.item, minlength=items)
        left = Round(int((of_user > 0).sum()), int((of_item > 0).sum()), len(log.user))
        rounds.append(left)
        keep = (of_user >= max(minimum, SHORTEST))[log.user] & (of_item >= minimum)[log.item]
        if keep.all():
            return log, rounds
        log = log.take(keep)


def starts_of_users(log: Interactions) -> np.ndarray:
    """Return where each user's rows begin in a sorted log, followed by its length."""
    begins = np.flatnonzero(np.diff(log.user, prepend=-1))
    return np.append(begins, len(log.user))


def users_with_tie_at_split(log: Interactions) -> int:
    """Return the number of users whose held-out items follow from the log's order, not the time."""
    if log.micros is None or len(log.user) == 0:
        return 0
    last = starts_of_users(log)[1:] - 1  # every user has at least three rows
    t, before, earlier = (log.micros[last - back] for back in range(3))
    return int(((t == before) | (before == earlier)).sum())


def count_shared_times(log: Interactions) -> int:
    """Return how many rows of a sorted log have the same time as another row of their user."""
    if log.micros is None or len(log.user) == 0:
        return 0
    same = (np.diff(log.user) == 0) & (np.diff(log.micros) == 0)
    return int(np.count_nonzero(np.append(same, False) | np.insert(same, 0, False)))


def batches(
    log: Interactions, user_ids: pa.LargeStringArray, item_index: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """Yield the sequences artifact, a bounded number of users at a time.

    Args:
        log: sorted interactions.
        user_ids: id of each user code.
        item_index: new index of each item code, int32.
    """
    starts = starts_of_users(log)
    for first in range(0, len(starts) - 1, USERS_PER_BATCH):
        bounds = starts[first : first + USERS_PER_BATCH + 1]
        rows = slice(int(bounds[0]), int(bounds[-1]))
        offsets = pa.array((bounds - bounds[0]).astype(np.int32))
        users = user_ids.take(pa.array(log.user[bounds[:-1]])).cast(pa.string())
        items = pa.array(item_index[log.item[rows]], pa.int32())
        times = pa.nulls(len(users), pa.list_(pa.int64()))
        if log.micros is not None:
            times = pa.ListArray.from_arrays(offsets, pa.array(log.micros[rows] // 1_000))
        sequences = pa.ListArray.from_arrays(offsets, items)
        yield pa.record_batch(
            [users, sequences, times], names=["user_id", "item_index", "timestamp"]
        )
