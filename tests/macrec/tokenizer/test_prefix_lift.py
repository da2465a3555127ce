"""Codes: N items, L levels; U users, P pairs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macrec.tokenizer.prefix_lift import PRIOR, Pairs, consecutive_pairs, prefix_lift


def flat(*histories):
    lengths = [len(history) for history in histories]
    return np.array([*itertools.chain(*histories)]), np.concatenate([[0], np.cumsum(lengths)])


def pairs_of(*couples):
    return Pairs(np.array(couples), np.arange(len(couples)))


def test_training_pairs_leave_out_the_last_two_items_of_every_user():
    sequences = flat([0, 1, 2, 8, 9], [3, 4, 8, 9], [5, 8, 9], [8, 9], [9], [])
    pairs = consecutive_pairs(*sequences)
    assert pairs.items_P2.tolist() == [[0, 1], [1, 2], [3, 4]]
    assert pairs.user_P.tolist() == [0, 0, 1]


def test_validation_pairs_are_the_last_training_item_and_the_one_after():
    pairs = consecutive_pairs(*flat([0, 1, 2, 9], [3, 4, 9], [5, 9], [9], []), part="validation")
    assert pairs.items_P2.tolist() == [[1, 2], [3, 4]]
    assert pairs.user_P.tolist() == [0, 1]


def test_an_item_that_follows_itself_is_no_pair():
    pairs = consecutive_pairs(*flat([0, 0, 1, 1, 2, 2], [3, 3, 9]))
    assert pairs.items_P2.tolist() == [[0, 1]]
    validation = consecutive_pairs(*flat([0, 0, 1, 1, 2, 2], [3, 3, 9]), part="validation")
    assert validation.items_P2.tolist() == [[1, 2]]


def test_no_sequences_are_no_pairs_and_lift_1():
    pairs = consecutive_pairs(np.zeros(0, np.int32), np.zeros(1, np.int64))
    assert pairs.items_P2.shape == (0, 2)
    assert prefix_lift(np.zeros((3, 2), int), pairs) == [(0, 0, 1, 1)] * 2


def by_definition(codes, couples, depth):
    """Rate, and chance over all ways to take first and second from two pairs."""
    codes = [tuple(code[:depth]) for code in codes]
    rate = sum(codes[a] == codes[b] for a, b in couples) / len(couples)
    ways = [(p[0], q[1]) for p, q in itertools.permutations(couples, 2) if p[0] != q[1]]
    chance = sum(codes[a] == codes[b] for a, b in ways) / len(ways) if ways else 0.0
    return rate, chance


def test_lift_by_hand():
    codes_NL = np.array([[0, 0], [0, 1], [1, 0], [1, 0]])
    pairs = pairs_of((0, 1), (0, 1), (2, 3), (3, 0))
    first, second = prefix_lift(codes_NL, pairs)
    # firsts 0 0 2 3, seconds 1 1 3 0: of the 12 ways, (0,0) twice and (3,3) once are one item;
    # of the other 9, (0,1) twice across its two pairs share a code, and nothing else does
    assert (first.rate, first.chance) == pytest.approx((3 / 4, 2 / 9))
    assert first.lift == pytest.approx((3 + PRIOR) / (4 * 2 / 9 + PRIOR))
    assert (second.rate, second.chance, second.lift) == pytest.approx((1 / 4, 0, 2))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 25))
def test_rate_and_chance_are_those_of_the_definition(seed, items, count):
    rng = np.random.default_rng(seed)
    codes_NL = rng.integers(0, 3, (items, 3))
    first_P = rng.integers(0, items, count)
    couples = np.stack([first_P, (first_P + rng.integers(1, items, count)) % items], axis=1)
    for depth, lift in enumerate(prefix_lift(codes_NL, Pairs(couples, rng.integers(0, 4, count)))):
        expected = by_definition(codes_NL.tolist(), couples.tolist(), depth + 1)
        assert (lift.rate, lift.chance) == pytest.approx(expected)
        assert math.isfinite(lift.lift) and lift.error > 0


def test_a_pair_with_an_item_without_codes_does_not_count():
    codes_NL = np.array([[0, 0], [-1, -1], [0, 1], [1, 0], [1, 1]])
    couples = [(0, 2), (3, 4), (3, 0), (2, 3)]
    with_gaps = prefix_lift(codes_NL, pairs_of(*couples, (0, 1), (1, 3), (1, 2)))
    assert with_gaps == prefix_lift(codes_NL, pairs_of(*couples))


def log(rng, users=150, length=12, items=200):
    """Histories of popular and of rare items, in which items follow some items again and again."""
    popularity_N = 1 / np.arange(1, items + 1)
    popularity_N /= popularity_N.sum()
    follower_N = rng.permutation(items)
    histories = []
    for _ in range(users):
        history = rng.choice(items, length, p=popularity_N)
        again = np.flatnonzero(rng.random(length - 1) < 0.3)
        history[again + 1] = follower_N[history[again]]
        histories.append(history.tolist())
    return flat(*histories)


def test_random_codes_have_lift_1_at_every_depth_within_the_error():
    rng = np.random.default_rng(0)
    pairs = consecutive_pairs(*log(rng))
    # 4, 16, 64, ... prefixes: from hundreds of expected hits to one and less
    drawn = [prefix_lift(rng.integers(0, 4, (200, 6)), pairs) for _ in range(300)]
    expected_D = np.mean([[p.chance * len(pairs.user_P) for p in lifts] for lifts in drawn], axis=0)
    assert expected_D[0] > 200 and 0.1 < expected_D[-1] < 1 < expected_D[-2] < 2
    lift_RD = np.array([[p.lift for p in lifts] for lifts in drawn])
    error_RD = np.array([[p.error for p in lifts] for lifts in drawn])
    error_of_mean_D = lift_RD.std(0) / math.sqrt(len(drawn))
    assert (abs(lift_RD.mean(0) - 1) < 3 * error_of_mean_D).all()
    spread_D = ((lift_RD - 1) / error_RD).std(0)
    assert (spread_D < 1.35).all() and (spread_D[:4] > 0.75).all()


def test_codes_of_what_follows_what_have_the_planted_lift():
    rng = np.random.default_rng(1)
    # ten groups of ten items in even use; every second step stays in the group
    group_U = rng.integers(0, 10, 2000)
    stays_U = rng.random(2000) < 0.5
    second_U = np.where(stays_U, group_U, rng.integers(0, 10, 2000))
    couples_U2 = np.stack([group_U, second_U], axis=1) * 10 + rng.integers(0, 10, (2000, 2))
    couples_U2 = couples_U2[couples_U2[:, 0] != couples_U2[:, 1]]
    codes_NL = np.stack([np.arange(100) // 10, np.arange(100) % 10], axis=1)
    group, item = prefix_lift(codes_NL, Pairs(couples_U2, np.arange(len(couples_U2))))
    rate = (0.5 + 0.05) * 0.9 / (1 - 0.055)
    assert group.lift == pytest.approx(rate / (9 / 99), abs=3 * group.error)
    assert group.error < 0.3
    assert (item.rate, item.chance, item.lift, item.error) == (0, 0, 1, 1)


@pytest.mark.parametrize("repeated", ["user", "items"])
def test_what_one_user_or_one_pair_of_items_repeats_widens_the_error(repeated):
    rng = np.random.default_rng(2)
    items, count = 400, 1200
    couples = rng.permuted(np.tile(np.arange(items), (count, 1)), axis=1)[:, :2]
    codes_NL = np.arange(items)[:, None] % 20
    user_P = np.arange(count)
    once = prefix_lift(codes_NL, Pairs(couples, user_P))[0]
    # sixty more hits, of sixty pairs of items by one user or of one pair by sixty users
    couples[:60] = [0, 20]
    if repeated == "user":
        couples[:60] += np.arange(60)[:, None]
        user_P[:60] = 0
    again = prefix_lift(codes_NL, Pairs(couples, user_P))[0]
    assert again.rate > 1.7 * once.rate
    # hits on their own would widen it by the root of their number
    assert again.error > 2.5 * math.sqrt(again.lift / once.lift) * once.error
