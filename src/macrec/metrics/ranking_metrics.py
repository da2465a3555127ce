"""Ranking metrics of next-item recommendation, with ties counted at their expected value.

Shapes: U users, K places of a list, N items, P pairs of a user and an item, R resamples, M metrics.

Equal scores define no order. So the metric of a tied target is the mean over all orders of the tie:
the target is equally likely at each place of the tie. Each user has one target, so the ideal DCG is
1, and NDCG is the discount at the target's place.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

CUTOFFS: Final = (1, 5, 10, 20)
RESAMPLES: Final = 1000

POPULARITY: Final = ("head", "middle", "tail", "unseen")
"""Names of the groups of `popularity_groups`."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]
Pairs = tuple[IntArray, IntArray]
"""Users [P] and items [P] of distinct pairs."""
NOBODY: Final[Pairs] = (np.zeros(0, np.int64), np.zeros(0, np.int64))


class Ranks(NamedTuple):
    """Places of the targets in their lists."""

    above_U: npt.NDArray[np.int64]
    """Number of items that score higher than the target."""
    tied_U: npt.NDArray[np.int64]
    """Number of items with the target's score, itself included; 0 if the list lacks the target."""


class Interval(NamedTuple):
    """A mean over users and its bootstrap confidence interval."""

    mean: float
    low: float
    high: float


class Exposure(NamedTuple):
    """Measures of the items that a system shows to all users together."""

    coverage: float
    """Share of the catalogue that is shown to at least one user."""
    gini: float
    """Gini coefficient of how often each item of the catalogue is shown. It is 0 if all items are
    shown equally often, and near 1 if a few items take every place."""
    novelty: float
    """Mean of -log2 p over the shown places, in bits. An item of half of all interactions has 1
    bit; each further bit means half the popularity."""


def ranks_in_lists(
    items_UK: IntArray, scores_UK: npt.NDArray[np.floating], targets_U: IntArray
) -> Ranks:
    """Return the places of the targets in ranked lists padded with item -1.

    A list must contain each tie as a whole, or the expected value is wrong.
    """
    ordered_UK = np.sort(items_UK, axis=1)
    twice = (ordered_UK[:, 1:] == ordered_UK[:, :-1]) & (ordered_UK[:, 1:] >= 0)
    assert not twice.any(), "an item stands twice in one list"
    here_UK = (items_UK == targets_U[:, None]) & (items_UK >= 0)
    found_U = here_UK.any(axis=1)
    score_U1 = np.where(here_UK, scores_UK, -np.inf).max(axis=1, initial=-np.inf)[:, None]
    valid_UK = items_UK >= 0
    above_U = (valid_UK & (scores_UK > score_U1)).sum(axis=1)
    tied_U = (valid_UK & (scores_UK == score_U1)).sum(axis=1)
    return Ranks(above_U, np.where(found_U, tied_U, 0))


def ranks_by_value(
    values_N: npt.NDArray[np.number], targets_U: IntArray, left_out: Pairs = NOBODY
) -> Ranks:
    """Return the places of the targets if every user's list is the catalogue by descending value.

    The distinct pairs `left_out` are not in the lists.
    """
    sorted_N = np.sort(values_N)
    target_U = values_N[targets_U]
    upper_U = np.searchsorted(sorted_N, target_U, side="right")
    lower_U = np.searchsorted(sorted_N, target_U, side="left")
    above_U, tied_U = len(sorted_N) - upper_U, upper_U - lower_U
    user_P, item_P = left_out
    higher_P = values_N[item_P] > target_U[user_P]
    same_P = values_N[item_P] == target_U[user_P]
    above_U = above_U - np.bincount(user_P[higher_P], minlength=len(targets_U))
    tied_U = tied_U - np.bincount(user_P[same_P], minlength=len(targets_U))
    tied_U[user_P[item_P == targets_U[user_P]]] = 0
    return Ranks(above_U.astype(np.int64), tied_U.astype(np.int64))


def ranks_in_scores(scores_UN: npt.NDArray[np.floating], targets_U: IntArray) -> Ranks:
    """Return the places of the targets if every user's list is the catalogue by descending score.

    An item with score -inf is not in the user's list.
    """
    assert (scores_UN < np.inf).all(), "a score is not finite"
    target_U1 = np.take_along_axis(scores_UN, targets_U[:, None].astype(np.int64), axis=1)
    tied_U = (scores_UN == target_U1).sum(axis=1)
    return Ranks(
        (scores_UN > target_U1).sum(axis=1), np.where(target_U1[:, 0] > -np.inf, tied_U, 0)
    )


def popularity(training_items: IntArray, items: int) -> npt.NDArray[np.int64]:
    """Return the interactions per item [N]; pass training interactions only, not held-out ones."""
    return np.bincount(training_items, minlength=items)


def popularity_groups(popularity_N: IntArray) -> npt.NDArray[np.int64]:
    """Return the group of each item as an index of POPULARITY, [N].

    The group depends on the training interactions of all more popular items. If they are less than
    one third of all training interactions, the item is in the head. If they are less than two
    thirds, it is in the middle; otherwise it is in the tail. An item without interactions is
    unseen. Items of equal popularity are in the same group.
    """
    value_V, place_N, items_V = np.unique(popularity_N, return_inverse=True, return_counts=True)
    mass_V = value_V.astype(np.int64) * items_V
    above_V = mass_V.sum() - np.cumsum(mass_V)
    group_V = np.minimum(3 * above_V // max(int(mass_V.sum()), 1), 2)
    group_V[value_V == 0] = 3
    return group_V[place_N]


def metric_names(cutoffs: Sequence[int] = CUTOFFS) -> list[str]:
    """Return the metric names in the order of `per_user`: hr_1 .. mrr_20."""
    return [f"{metric}_{cutoff}" for metric in ("hr", "ndcg", "mrr") for cutoff in cutoffs]


def per_user(ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, FloatArray]:
    """Return HR@k, NDCG@k and MRR@k of every user [U], as the mean over the orders of ties."""
    place = np.arange(1, max(cutoffs) + 1)
    gains = {"hr": np.ones(len(place)), "ndcg": 1 / np.log2(place + 1), "mrr": 1 / place}
    first_U, last_U = ranks.above_U, ranks.above_U + ranks.tied_U
    found: dict[str, FloatArray] = {}
    for metric, gain in gains.items():
        total = np.concatenate([[0.0], np.cumsum(gain)])
        for cutoff in cutoffs:
            inside_U = total[np.minimum(last_U, cutoff)] - total[np.minimum(first_U, cutoff)]
            value_U = inside_U / np.maximum(ranks.tied_U, 1)
            assert (value_U <= 1 + 1e-9).all(), f"{metric}@{cutoff} above 1"
            found[f"{metric}_{cutoff}"] = value_U
    return found


def random_hit_rate(items: int, cutoff: int) -> float:
    """Return the expected HR@cutoff of a random order of the catalogue."""
    return min(1.0, cutoff / items)


def shown_counts(items_UK: IntArray, cutoff: int, items: int) -> npt.NDArray[np.int64]:
    """Return the number of users whose first `cutoff` places contain each item, [N]."""
    first = items_UK[:, :cutoff]
    return np.bincount(first[first >= 0], minlength=items)


def shown_by_value(
    values_N: npt.NDArray[np.number], users: int, cutoff: int, left_out: Pairs
) -> npt.NDArray[np.int64]:
    """Return `shown_counts` of `users` lists of the catalogue, sorted by descending value, [N].

    Items of equal value are sorted by index. The distinct pairs `left_out` are not in the lists;
    the next items of the list take their places.
    """
    place_N = np.empty(len(values_N), np.int64)
    place_N[np.argsort(-values_N, kind="stable")] = np.arange(len(values_N))
    user_P, item_P = left_out
    place_P = place_N[item_P]
    end_U = np.full(users, min(cutoff, len(values_N)))
    while True:
        inside_P = place_P < end_U[user_P]
        skipped_U = np.bincount(user_P[inside_P], minlength=users)
        further_U = np.minimum(cutoff + skipped_U, len(values_N))
        if (further_U == end_U).all():
            break
        end_U = further_U
    reach = np.bincount(end_U, minlength=len(values_N) + 1)
    reached_N = users - np.cumsum(reach)[: len(values_N)]  # users whose list reaches a place
    reached_N -= np.bincount(place_P[inside_P], minlength=len(values_N))
    return reached_N[place_N]


def exposure(shown_N: IntArray, popularity_N: IntArray) -> Exposure:
    """Return the coverage, Gini coefficient and novelty of the shown items.

    Novelty is the mean self-information of an item, -log2 p (Zhou et al. 2010, PNAS 107; Vargas
    and Castells 2011, RecSys), with p = (training interactions of the item + 1) / (all training
    interactions + N). One is added because an item without interactions can also be shown.
    """
    assert shown_N.sum() > 0, "nothing was shown"
    items = len(shown_N)
    share_N = shown_N / shown_N.sum()
    rank_N = np.arange(1, items + 1)
    information_N = np.log2(popularity_N.sum() + items) - np.log2(popularity_N + 1.0)
    return Exposure(
        coverage=float((shown_N > 0).mean()),
        gini=float((2 * rank_N - items - 1) @ np.sort(share_N)) / items,
        novelty=float(share_N @ information_N),
    )


def bootstrap(
    values: Mapping[str, FloatArray],
    generator: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return every metric's mean over users and its percentile interval, by resampling users."""
    values_UM = np.stack(list(values.values()), axis=1)
    users = len(values_UM)
    means_RM = np.empty((resamples, values_UM.shape[1]))
    for resample in range(resamples):
        drawn_U = np.bincount(generator.integers(users, size=users), minlength=users)
        means_RM[resample] = drawn_U @ values_UM / users
    low_M, high_M = np.quantile(means_RM, [(1 - level) / 2, (1 + level) / 2], axis=0)
    mean_M = values_UM.mean(axis=0)
    return {
        name: Interval(float(mean_M[m]), float(low_M[m]), float(high_M[m]))
        for m, name in enumerate(values)
    }
