"""Full ranking of the catalogue: NDCG@10 on validation users, all metrics on test users.

Shapes: U users, B users of a batch, K positions of a list, N items.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from components.baselines.interface import Model
from macrec.core.errors import check
from macrec.core.progress import Progress
from macrec.data.sequences import seen_pairs
from macrec.data.split import Cases, Split
from macrec.metrics.predictions import SHOWN_CUTOFF, SystemScores, first_places, rows
from macrec.metrics.ranking_metrics import (
    CUTOFFS,
    Ranks,
    exposure,
    per_user,
    popularity,
    ranks_in_scores,
    shown_counts,
)
from macrec.ranking.lists import Lists

USERS_AT_ONCE: Final = 16_384
"""Number of users whose lists are held in memory together."""
CHOSEN_BY: Final = "ndcg_10"


class Protocol(NamedTuple):
    """The ranking protocol, which is the same for every model."""

    max_history: int
    """Number of most recent items of a history that a model reads."""
    drop_seen: bool
    """Whether lists exclude all items of the user's history, including those before the last
    `max_history`."""
    batch_size: int
    """Number of users that are scored together."""


class Batch(NamedTuple):
    """Scores of a batch of users."""

    user_B: np.ndarray
    """Indices of the users among the cases."""
    scores_BN: np.ndarray


def score_in_batches(model: Model, cases: Cases, protocol: Protocol) -> Iterator[Batch]:
    """Yield the scores of all cases in batches of similar history length.

    Items that must not be listed have the score -inf.
    """
    lengths_U = np.array([len(history) for history in cases.histories])
    order_U = np.argsort(np.minimum(lengths_U, protocol.max_history), kind="stable")
    for start in range(0, len(order_U), protocol.batch_size):
        user_B = order_U[start : start + protocol.batch_size]
        histories = [cases.histories[user] for user in user_B]
        scores_BN = model.score_all([history[-protocol.max_history :] for history in histories])
        assert np.isfinite(scores_BN).all(), "a score is not finite"
        if protocol.drop_seen:
            scores_BN = scores_BN.copy()
            scores_BN[seen_pairs(histories)] = -np.inf
        yield Batch(user_B, scores_BN)


def validator(split: Split, protocol: Protocol) -> Callable[[Model], float]:
    """Return a function that computes a model's mean NDCG@10 on all validation users.

    These are the users with three interactions or more. Their target is the second to last item.

    Raises:
        UserError: there is no such user.
    """
    cases = split.validation(0, np.random.default_rng(0))  # 0: all users, no random draw
    check(
        len(cases.targets_T) > 0,
        "sequences: no user has three items, so there is nothing to validate on.",
    )

    def validate(model: Model) -> float:
        total = 0.0
        for user_B, scores_BN in score_in_batches(model, cases, protocol):
            ranks = ranks_in_scores(scores_BN, cases.targets_T[user_B])
            total += float(per_user(ranks, (10,))[CHOSEN_BY].sum())
        return total / len(cases.targets_T)

    return validate


class TestResult(NamedTuple):
    """Result of the ranking of the test users."""

    scores: SystemScores
    seconds: float
    """Time for scoring and selecting the top K, without the computation of metrics."""


def test(
    model: Model,
    name: str,
    split: Split,
    items: int,
    protocol: Protocol,
    *,
    top_k: int,
    write: Callable[[pa.Table], None],
    clock: Callable[[], float] = time.monotonic,
) -> TestResult:
    """Rank the catalogue for every test user.

    The lists are passed to `write` in the order of the users.
    """
    scores, seconds = SystemScores(np.zeros(items, np.int64)), 0.0
    cutoffs = tuple(cutoff for cutoff in CUTOFFS if cutoff <= top_k)
    with Progress(f"{name}, test", len(split.users_T), "users") as progress:
        for start in range(0, len(split.users_T), USERS_AT_ONCE):
            users_U = split.users_T[start : start + USERS_AT_ONCE]
            cases = split.test(users_U)
            order: list[np.ndarray] = []
            ranks: list[Ranks] = []
            lists: list[Lists] = []
            batches = score_in_batches(model, cases, protocol)
            started = clock()
            for user_B, scores_BN in batches:
                lists.append(first_places(scores_BN, top_k))
                seconds += clock() - started
                ranks.append(ranks_in_scores(scores_BN, cases.targets_T[user_B]))
                order.append(user_B)
                progress.advance(len(user_B))
                started = clock()
            back_U = np.argsort(np.concatenate(order))
            found = Ranks(*(np.concatenate(part)[back_U] for part in zip(*ranks, strict=True)))
            together = _join(lists, back_U)
            scores.add(found, cutoffs)
            scores.shown_N += shown_counts(together.items_UK, SHOWN_CUTOFF, items)
            write(rows(split.user_ids.take(users_U), name, cases.targets_T, together))
    return TestResult(scores, seconds)


def _join(lists: list[Lists], back_U: np.ndarray) -> Lists:
    """Concatenate the lists of the batches and restore the order of the users."""
    widest = max(found.items_UK.shape[1] for found in lists)

    def pad_and_join(parts: list[np.ndarray], fill: float) -> np.ndarray:
        wide = [
            np.pad(part, ((0, 0), (0, widest - part.shape[1])), constant_values=fill)
            for part in parts
        ]
        return np.concatenate(wide)[back_U]

    return Lists(
        pad_and_join([found.items_UK for found in lists], -1),
        pad_and_join([found.scores_UK for found in lists], -np.inf),
    )


def figures(tested: TestResult, split: Split, items: int) -> dict[str, float]:
    """Return the mean metrics of the test users, the exposure of all lists, and the ranking
    speed."""
    found = {name: float(value_T.mean()) for name, value_T in tested.scores.values.items()}
    shown = exposure(tested.scores.shown_N, popularity(split.training().items, items))
    found |= {f"{figure}_10": value for figure, value in shown._asdict().items()}
    users = len(split.users_T)
    return found | {
        "users": float(users),
        "users_per_second": users / max(tested.seconds, 1e-9),
    }
