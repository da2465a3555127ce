"""Metrics against values worked out by hand, ties and absent targets included."""

from itertools import permutations

import numpy as np
import pytest

from macrec.metrics.ranking_metrics import (
    POPULARITY,
    Ranks,
    bootstrap,
    exposure,
    metric_names,
    per_user,
    popularity,
    popularity_groups,
    random_hit_rate,
    ranks_by_value,
    ranks_in_lists,
    ranks_in_scores,
    shown_by_value,
    shown_counts,
)

GAIN = {"hr": lambda place: 1.0, "ndcg": lambda p: 1 / np.log2(p + 1), "mrr": lambda p: 1 / p}


def ranks(above: int, tied: int) -> Ranks:
    return Ranks(np.array([above]), np.array([tied]))


@pytest.mark.parametrize(
    ("above", "tied", "name", "value"),
    [
        (0, 1, "hr_1", 1.0),
        (0, 1, "ndcg_10", 1.0),
        (2, 1, "hr_1", 0.0),
        (2, 1, "hr_5", 1.0),
        (2, 1, "ndcg_5", 0.5),  # 1 / log2(4)
        (2, 1, "mrr_5", 1 / 3),
        (9, 1, "ndcg_10", 1 / np.log2(11)),
        (10, 1, "hr_10", 0.0),
        (10, 1, "hr_20", 1.0),
        (0, 0, "hr_20", 0.0),  # not in the list
        (0, 2, "hr_1", 0.5),
        (0, 2, "ndcg_5", (1 + 1 / np.log2(3)) / 2),
        (0, 2, "mrr_5", 0.75),
        (4, 3, "hr_5", 1 / 3),  # places 5, 6, 7
        (8, 5, "mrr_10", (1 / 9 + 1 / 10) / 5),
        (18, 100, "hr_20", 0.02),
    ],
)
def test_values_by_hand(above, tied, name, value):
    assert per_user(ranks(above, tied))[name][0] == pytest.approx(value)


def test_ties_count_at_their_mean_over_all_orders():
    scores = [3.0, 2.0, 2.0, 2.0, 1.0]  # the target is item 2, tied on places 2..4
    for cutoff in (1, 2, 3, 4, 5):
        for metric, gain in GAIN.items():
            orders = []
            for tie in permutations([1, 2, 3]):
                place = [0, *tie, 4].index(2) + 1
                orders.append(gain(place) if place <= cutoff else 0.0)
            found = ranks_in_lists(np.arange(5)[None], np.array([scores]), np.array([2]))
            value = per_user(found, (cutoff,))[f"{metric}_{cutoff}"][0]
            assert value == pytest.approx(np.mean(orders)), (metric, cutoff)


def test_ranks_in_lists_with_padding_and_absent_targets():
    items = np.array([[7, 3, -1], [4, 5, 6], [-1, -1, -1], [2, 1, 0]])
    scores = np.array([[-1, -2, -np.inf], [-1, -1, -2], [-np.inf] * 3, [-1, -2, -2]])
    found = ranks_in_lists(items, scores, np.array([3, 9, 0, 1]))
    assert found.above_U[[0, 3]].tolist() == [1, 1]
    assert found.tied_U.tolist() == [1, 0, 0, 2]


def test_an_item_twice_in_a_list_is_refused():
    with pytest.raises(AssertionError, match="twice"):
        ranks_in_lists(np.array([[1, 2, 1]]), np.array([[0.0, 0, 0]]), np.array([1]))


def test_popularity_ranks_the_whole_catalogue():
    counts = popularity(np.array([0, 0, 0, 1, 1, 2, 2]), items=5)
    assert counts.tolist() == [3, 2, 2, 0, 0]
    found = ranks_by_value(counts, np.array([0, 1, 2, 4]))
    assert found.above_U.tolist() == [0, 1, 1, 3]
    assert found.tied_U.tolist() == [1, 2, 2, 2]


def test_a_list_credited_twice_for_its_target_is_refused():
    with pytest.raises(AssertionError, match="above 1"):
        per_user(Ranks(np.array([0]), np.array([-1])), (10,))


def test_shown_counts_are_users_per_item_without_padding():
    items = np.array([[1, 2, 3], [2, 1, -1], [2, -1, -1]])
    assert shown_counts(items, cutoff=2, items=5).tolist() == [0, 2, 3, 0, 0]
    assert shown_counts(items, cutoff=3, items=5).tolist() == [0, 2, 3, 1, 0]


def test_exposure_by_hand():
    shown_N, popularity_N = np.array([6, 2, 0, 0]), np.array([3, 0, 0, 9])
    coverage, gini, novelty = exposure(shown_N, popularity_N)
    assert coverage == 0.5
    pairs = [abs(a - b) for a in shown_N for b in shown_N]
    assert gini == pytest.approx(sum(pairs) / (2 * 4 * 4 * 2))  # mean difference / (2 x mean)
    # p of item 0 is (3 + 1) / (12 + 4), that of item 1 is 1 / 16
    assert novelty == pytest.approx((6 * 2 + 2 * 4) / 8)


def test_gini_of_even_and_of_single_exposure():
    popularity_N = np.zeros(8, int)
    assert exposure(np.full(8, 5), popularity_N).gini == pytest.approx(0)
    assert exposure(np.eye(8, dtype=int)[3], popularity_N).gini == pytest.approx(7 / 8)
    assert exposure(np.full(8, 5), popularity_N).novelty == pytest.approx(3)  # log2 of 8 alike


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        # 12 interactions: nothing is above 5; 5 is above 3, 8 above the 1s
        ([1, 5, 0, 3, 1, 1, 1], "tail head unseen middle tail tail tail"),
        ([4, 4, 4], "head head head"),  # equal items are together
        ([2, 1], "head tail"),  # two thirds lie above the second
        ([0, 0], "unseen unseen"),
    ],
)
def test_popularity_groups_by_hand(counts, groups):
    found = popularity_groups(np.array(counts))
    assert [POPULARITY[group] for group in found] == groups.split()


def test_head_middle_and_tail_hold_a_third_each():
    counts_N = np.random.default_rng(0).lognormal(2, 1, 3000).astype(int)
    group_N = popularity_groups(counts_N)
    share = [counts_N[group_N == group].sum() / counts_N.sum() for group in range(4)]
    assert share[:3] == pytest.approx([1 / 3] * 3, abs=0.02) and share[3] == 0
    assert (counts_N[group_N == 3] == 0).all() and (counts_N[group_N < 3] > 0).all()
    least = [counts_N[group_N == group].min() for group in range(2)]
    most = [counts_N[group_N == group].max() for group in (1, 2)]
    assert least[0] > most[0] and least[1] > most[1]


def test_random_hit_rate():
    assert random_hit_rate(200, 10) == 0.05
    assert random_hit_rate(5, 10) == 1.0


def test_bootstrap_interval_has_the_width_of_the_standard_error_and_is_seeded():
    values = {"hr_10": (np.arange(400) < 100).astype(float), "hr_1": np.zeros(400)}
    first = bootstrap(values, np.random.default_rng(0))
    assert first == bootstrap(values, np.random.default_rng(0))
    assert first["hr_1"] == (0.0, 0.0, 0.0)
    mean, low, high = first["hr_10"]
    assert mean == 0.25
    standard_error = np.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - 1.96 * standard_error, abs=0.008)
    assert high == pytest.approx(0.25 + 1.96 * standard_error, abs=0.008)


def test_metric_names_are_those_of_per_user():
    assert metric_names() == list(per_user(ranks(0, 1)))


def test_what_a_user_has_is_in_no_list_by_value():
    generator = np.random.default_rng(4)
    values_N = generator.integers(0, 9, 30)  # with ties
    pair = np.unique(generator.integers(0, 40 * 30, 300))
    user_P, item_P = pair // 30, pair % 30
    targets_U = generator.integers(0, 30, 40)
    scores_UN = np.tile(values_N.astype(float), (40, 1))
    scores_UN[user_P, item_P] = -np.inf
    found, expected = (
        ranks_by_value(values_N, targets_U, (user_P, item_P)),
        ranks_in_scores(scores_UN, targets_U),
    )
    listed_U = np.isfinite(scores_UN[np.arange(40), targets_U])
    assert 0 < listed_U.sum() < 40
    assert found.tied_U.tolist() == expected.tied_U.tolist() and (found.tied_U > 0).tolist() == (
        listed_U.tolist()
    )
    assert found.above_U[listed_U].tolist() == expected.above_U[listed_U].tolist()
    for cutoff in (1, 10, 25, 30):
        order_UN = np.argsort(-scores_UN, axis=1, kind="stable")[:, :cutoff]
        first_UN = np.where(np.take_along_axis(scores_UN, order_UN, 1) > -np.inf, order_UN, -1)
        shown_N = shown_by_value(values_N, 40, cutoff, (user_P, item_P))
        assert shown_N.tolist() == shown_counts(first_UN, cutoff, 30).tolist()
