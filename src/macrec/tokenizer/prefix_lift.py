"""Prefix lift: how much more often consecutive items share their first codes than by chance.

The lift is a cheap estimate of what a recommender could gain from the codes. Computing it does not
require a recommender.

Shapes: N items, L levels, P pairs of consecutive items, K prefixes, U users, H hits. A hit is a
pair whose items share a prefix.
"""

from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macrec.tokenizer.measures import Codes, Ints, has_codes, prefix_groups

Floats = NDArray[np.float64]

PRIOR: Final = 1.0
"""Hits added to both the observed and the expected hits."""


class Pairs(NamedTuple):
    """Consecutive items of the users' histories; the two items of a pair differ."""

    items_P2: Ints
    user_P: Ints


class PrefixLift(NamedTuple):
    """Lift for one prefix length."""

    rate: float
    """Share of the pairs whose items share the prefix."""
    chance: float
    """The same share for two different items drawn independently, with their frequencies in the
    pairs."""
    lift: float
    """rate / chance, shrunk towards 1 where few hits are expected by chance. At 1, the codes carry
    no information about which items follow each other."""
    error: float
    """Standard error of the lift."""


def consecutive_pairs(
    item_K: NDArray[np.integer],
    offset_U1: NDArray[np.integer],
    part: Literal["training", "validation"] = "training",
) -> Pairs:
    """Return each item with the next item of the same user, except repeats of the same item.

    Args:
        item_K: interactions of all users end to end, in time order.
        offset_U1: the interactions of user u are item_K[offset[u] : offset[u + 1]].
        part: "training" pairs consecutive training items, which are all but the last two items of
            a user. "validation" pairs the last training item with the validation item. The last
            item, the test item, is in no pair.
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
    """Return the lift of the first 1, 2, ... L codes, over the pairs whose items both have codes.

    The chance is exact. Take the first item from one pair and a different second item from
    another pair: the chance is the share of these combinations with the same prefix. A pair is not
    combined with itself, or its own hit would count as chance. So for random codes the rate and
    the chance have the same mean.

    The lift is (hits + PRIOR) / (expected hits + PRIOR), the mean of a gamma posterior whose prior
    has mean 1. With random codes, the mean number of hits is the expected number. So the lift of
    uninformative codes has mean 1 at every depth. One lucky hit where 0.01 were expected gives a
    lift of 2 and not of 100.

    The error is the largest of three estimates. The error of the posterior is the only one that
    stays large when there are no hits. The spread over users accounts for users who repeat
    themselves. The spread over item pairs accounts for pairs that many users have. Each estimate
    is for the hits minus the lift times the expected hits.
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
    """How often each item is first and second in a pair, and the derived totals."""

    group_N: Ints
    first_N: Floats
    second_N: Floats
    possible: float
    """Number of ways to take two different items from two pairs."""
    chance: float


def _variance_over_users(
    pairs: Pairs, hit_P: NDArray[np.bool_], lift: float, weights: _Weights
) -> float:
    """Return the variance of hits - lift x expected hits, with whole users as the sampling unit.

    The difference is linearised in the pairs.
    """
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
    """Return the same variance, with item pairs {a, b} as the sampling unit.

    All hits and expected hits of an item pair are drawn together. All pairs with the same prefix
    have expected hits, although most pairs never occur. So their squares are summed prefix by
    prefix, by expanding (f_a s_b + f_b s_a)^2.
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
