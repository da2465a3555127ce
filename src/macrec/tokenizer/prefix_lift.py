"""Prefix lift: how much more often consecutive items share their first codes than by chance.

A cheap measure of what a recommender could gain from the codes: it needs no recommender.

N items, L levels, P pairs of consecutive items, K prefixes, U users, H hits: pairs that share.
"""

from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macrec.tokenizer.measures import Codes, Ints, has_codes, prefix_groups

Floats = NDArray[np.float64]

PRIOR: Final = 1.0
"""Hits added to those found and to those expected."""


class Pairs(NamedTuple):
    """Consecutive items of the users' histories; the two of a pair are different items."""

    items_P2: Ints
    user_P: Ints


class PrefixLift(NamedTuple):
    """Lift of one length of the prefix."""

    rate: float
    """share of the pairs whose items share the prefix"""
    chance: float
    """the same share for two different items drawn apart, each as often as in the pairs"""
    lift: float
    """rate / chance, drawn to 1 where chance has few hits to expect; 1 = the codes know nothing of
    what follows what"""
    error: float
    """standard error of the lift"""


def consecutive_pairs(
    item_K: NDArray[np.integer],
    offset_U1: NDArray[np.integer],
    part: Literal["training", "validation"] = "training",
) -> Pairs:
    """Each item with the next of the same user, unless it is the same item again.

    Args:
        item_K: interactions of all users end to end, in time order.
        offset_U1: those of user u are item_K[offset[u] : offset[u + 1]].
        part: the pairs within the training items, which are all but the last two of a user, or
            the last training item with the validation item. The last item, the test, is in none.
    """
    first_U, end_U = offset_U1[:-1].astype(np.int64), offset_U1[1:].astype(np.int64)
    if part == "training":
        user_K = np.repeat(np.arange(len(first_U)), end_U - first_U)
        place_P = np.flatnonzero(np.arange(len(item_K)) + 1 < end_U[user_K] - 2)
        user_P = user_K[place_P]
    else:
        user_P = np.flatnonzero(end_U - first_U >= 3)
        place_P = end_U[user_P] - 3
    items_P2 = np.stack([item_K[place_P], item_K[place_P + 1]], axis=1).astype(np.int64)
    differ_P = items_P2[:, 0] != items_P2[:, 1]
    return Pairs(items_P2[differ_P], user_P[differ_P])


def prefix_lift(codes_NL: Codes, pairs: Pairs) -> list[PrefixLift]:
    """Lift of the first 1, 2, ... L codes, over the pairs of which both items have codes.

    Chance is exact: of all ways to take the first item from one pair and the second from another,
    two different items, the share that have one prefix. A pair is not matched with itself, or its
    own hit would count as chance; so over random codes the rate and the chance have one mean.

    The lift is (hits + PRIOR) / (expected hits + PRIOR), the mean of a gamma posterior whose prior
    has mean 1. Given the codes and how often each item occurs, hits at random have the expected
    number as their mean, so the lift of codes that know nothing has mean 1 at every depth, and one
    lucky hit where 0.01 were expected is a lift of 2 and not of 100.

    The error is the largest of three: that of the posterior, which alone knows that no hit is
    little evidence; the spread over users, who repeat themselves; and the spread over pairs of
    items, which many users repeat. Every one counts the hits less the lift times the chance.
    """
    coded_N = has_codes(codes_NL)
    kept_P = coded_N[pairs.items_P2].all(1)
    row_N = np.cumsum(coded_N) - 1
    kept = Pairs(row_N[pairs.items_P2[kept_P]], pairs.user_P[kept_P])
    return [_lift(group_N, kept) for group_N in prefix_groups(codes_NL[coded_N])]


def _lift(group_N: Ints, pairs: Pairs) -> PrefixLift:
    count = len(pairs.user_P)
    if not count:
        return PrefixLift(0.0, 0.0, 1.0, PRIOR**-0.5)
    first_N = np.bincount(pairs.items_P2[:, 0], minlength=len(group_N)).astype(float)
    second_N = np.bincount(pairs.items_P2[:, 1], minlength=len(group_N)).astype(float)
    hit_P = group_N[pairs.items_P2[:, 0]] == group_N[pairs.items_P2[:, 1]]
    hits = float(hit_P.sum())
    same = float(first_N @ second_N)
    possible = float(count) ** 2 - same - count
    first_K, second_K = np.bincount(group_N, first_N), np.bincount(group_N, second_N)
    sharing = float(first_K @ second_K) - same - hits
    chance = sharing / possible if possible > 0 else 0.0
    expected = count * chance
    lift = (hits + PRIOR) / (expected + PRIOR)
    variance = hits + PRIOR
    if possible > 0:
        weights = _Weights(group_N, first_N, second_N, possible, chance)
        variance = max(
            variance,
            _variance_over_users(pairs, hit_P, lift, weights),
            _variance_over_item_pairs(pairs, hit_P, lift, weights),
        )
    return PrefixLift(hits / count, chance, lift, variance**0.5 / (expected + PRIOR))


class _Weights(NamedTuple):
    """How often each item is first and second, and what follows from it."""

    group_N: Ints
    first_N: Floats
    second_N: Floats
    possible: float
    """ways to take the two items from two pairs"""
    chance: float


def _variance_over_users(
    pairs: Pairs, hit_P: NDArray[np.bool_], lift: float, weights: _Weights
) -> float:
    """Of the hits less lift x expected, linearised in the pairs, with each user drawn whole."""
    group_N, first_N, second_N, possible, chance = weights
    count, (a_P, b_P) = len(hit_P), pairs.items_P2.T
    first_K, second_K = np.bincount(group_N, first_N), np.bincount(group_N, second_N)
    sharing_P = second_K[group_N[a_P]] - second_N[a_P] + first_K[group_N[b_P]] - first_N[b_P]
    possible_P = 2 * count - second_N[a_P] - first_N[b_P]
    expected_P = chance + count * (sharing_P - chance * possible_P) / possible
    influence_P = hit_P - lift * expected_P
    per_user_U = np.bincount(pairs.user_P, influence_P - influence_P.mean())
    return float((per_user_U**2).sum())


def _variance_over_item_pairs(
    pairs: Pairs, hit_P: NDArray[np.bool_], lift: float, weights: _Weights
) -> float:
    """Of the same sum, each pair of items {a, b} drawn with all its hits and all its chance.

    Chance falls on all pairs with one prefix, most of which never occur: their squares are summed
    prefix by prefix, (f_a s_b + f_b s_a)^2 multiplied out.
    """
    group_N, first_N, second_N, possible, chance = weights
    scale = lift * len(hit_P) / possible
    both_N = first_N * second_N
    first_K, second_K, both_K = (
        np.bincount(group_N, values_N) for values_N in (first_N**2, second_N**2, both_N)
    )
    squares = first_K @ second_K + both_K @ both_K - 2 * both_N @ both_N
    ends_H2 = np.sort(pairs.items_P2[hit_P], axis=1)
    key_H = ends_H2[:, 0] * len(group_N) + ends_H2[:, 1]
    key, hits = np.unique(key_H, return_counts=True)
    a, b = np.divmod(key, len(group_N))
    chance_of = scale * (first_N[a] * second_N[b] + first_N[b] * second_N[a])
    found = float(((hits - chance_of) ** 2 - chance_of**2).sum() + scale**2 * squares)
    return (1 - chance) * found
