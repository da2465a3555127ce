"""Reciprocal rank fusion, and lists whose ties are those of the scores they state."""

import numpy as np
import pytest

from macrec.metrics.ranking_metrics import per_user, ranks_in_lists
from macrec.ranking.candidates import Candidates
from macrec.ranking.fusion import (
    Weights,
    best_lists,
    fuse,
    fuse_published,
    fuse_reciprocal,
    fuse_with_neighbours,
    neighbour_list,
)
from macrec.ranking.lists import top_lists


def candidates(text_UN, image_UN) -> Candidates:
    """All items as candidates of every user; NaN where an item lacks the modality."""
    text_UN, image_UN = np.array(text_UN, np.float32), np.array(image_UN, np.float32)
    user_P, item_P = (index.ravel() for index in np.indices(text_UN.shape))
    found = np.ones(len(user_P), bool)
    return Candidates(
        len(text_UN),
        user_P,
        item_P,
        {"text": text_UN.ravel(), "image": image_UN.ravel()},
        {"text": found, "image": found},
        np.zeros(len(user_P), np.float32),
    )


def listed(lists, user):
    return dict(zip(lists.items_UK[user].tolist(), lists.scores_UK[user].tolist(), strict=True))


def test_reciprocal_ranks_by_hand():
    found = candidates([[-1, -2, -3], [-9, -8, -7]], [[-5, -4, -6], [-1, -3, -2]])
    lists = fuse_reciprocal(found, 60, 3)
    assert lists.items_UK[0].tolist() == [0, 1, 2]
    assert listed(lists, 0) == pytest.approx(
        {0: 1 / 61 + 1 / 62, 1: 1 / 62 + 1 / 61, 2: 1 / 63 + 1 / 63}, rel=1e-6
    )
    assert lists.scores_UK[0, 0] == lists.scores_UK[0, 1]  # ranks 1 and 2 either way: one tie
    assert listed(lists, 1) == pytest.approx(
        {0: 1 / 63 + 1 / 61, 1: 1 / 62 + 1 / 63, 2: 1 / 61 + 1 / 62}, rel=1e-6
    )


def test_the_constant_decides_how_much_a_first_place_is_worth():
    found = candidates([[-1, -2, -3, -4, -5]], [[-5, -2, -3, -4, -1]])
    assert fuse_reciprocal(found, 0, 1).items_UK[0].tolist() == [0, 4]  # 1 + 1/5 over 1/2 + 1/2
    assert fuse_reciprocal(found, 60, 1).items_UK[0].tolist() == [1]


def test_items_that_tie_share_the_mean_of_their_reciprocal_ranks():
    found = candidates([[-1, -2, -2, -2]], [[-4, -1, -2, -2]])
    text = [1 / 1, *[(1 / 2 + 1 / 3 + 1 / 4) / 3] * 3]
    image = [1 / 4, 1 / 1, *[(1 / 2 + 1 / 3) / 2] * 2]
    lists = fuse_reciprocal(found, 0, 3)
    expected = {item: text[item] + image[item] for item in range(4)}
    assert listed(lists, 0) == pytest.approx(expected, rel=1e-6)
    assert lists.items_UK.shape == (1, 4)  # the tie of items 2 and 3 is kept whole
    hits = [per_user(ranks_in_lists(*lists, np.array([t])), (3,))["hr_3"][0] for t in (2, 3)]
    assert hits == [0.5, 0.5]


def test_an_item_without_picture_takes_the_place_that_its_share_gives_it():
    # half the text probability of the items with both, so between the two of them by image
    text, image = np.log([[0.6, 0.5, 0.3]]), np.log([[0.08, np.nan, 0.01]])
    lists = fuse_reciprocal(candidates(text, image), 0, 3)
    assert lists.items_UK[0].tolist() == [0, 1, 2]
    assert listed(lists, 0) == pytest.approx({0: 2.0, 1: 1.0, 2: 2 / 3})


def test_users_are_ranked_apart_and_the_lists_follow_both_modalities():
    generator = np.random.default_rng(4)
    text, image = generator.normal(size=(2, 6, 30))
    whole = fuse_reciprocal(candidates(text, image), 60, 30)
    for user in range(6):
        alone = fuse_reciprocal(candidates(text[[user]], image[[user]]), 60, 30)
        assert listed(alone, 0) == listed(whole, user)
    same = fuse_reciprocal(candidates(text, text), 60, 30)
    assert same.items_UK.tolist() == np.argsort(-text, axis=1).tolist()


def test_no_user_scores_above_one_whatever_the_rule():
    generator = np.random.default_rng(5)
    text, image = generator.integers(-4, 0, (2, 200, 12)).astype(float)  # full of ties
    targets = generator.integers(0, 12, 200)
    for lists in (
        fuse(candidates(text, image), 0.4, 10),
        fuse_reciprocal(candidates(text, image), 60, 10),
    ):
        values = per_user(ranks_in_lists(*lists, targets))
        assert max(value_U.max() for value_U in values.values()) <= 1
        credited = sum(
            per_user(ranks_in_lists(*lists, np.full(200, item)), (10,))["hr_10"]
            for item in range(12)
        )
        assert credited == pytest.approx(np.full(200, 10))  # ten places, each given away once


def test_what_is_equal_as_listed_is_one_tie_at_the_cut():
    user, item = np.zeros(3, np.int64), np.arange(3)
    score = np.array([1.0, 0.5 + 1e-12, 0.5])  # float32 knows no difference of the last two
    lists = top_lists(user, item, score, 1, 2)
    assert lists.items_UK[0].tolist() == [0, 1, 2]
    assert lists.scores_UK[0, 1] == lists.scores_UK[0, 2]


def test_nobody_and_nothing():
    empty = fuse_reciprocal(candidates(np.zeros((0, 3)), np.zeros((0, 3))), 60, 5)
    assert empty.items_UK.shape == (0, 5)


def near(text, image, share) -> Candidates:
    """All items as candidates of one user; those without a score by a search have a share."""
    found = candidates([text], [image])
    searched = np.array(share) == 0
    return found._replace(
        share_P=np.array(share, np.float32), found_P={"text": searched, "image": searched}
    )


def test_the_hybrid_score_is_the_mixture_by_hand():
    text, image = np.log([0.4, 0.1, 0.05, 0.05]), np.log([0.1, 0.4, 0.05, 0.05])
    found = near(text, image, [0, 0, 0.9, 0.1])
    lists = fuse_with_neighbours(found, Weights(0.5, 0.25), 4)
    probability = np.array([0.2, 0.2, 0.05, 0.05]) / 0.5
    mixed = np.log(0.75 * probability + 0.25 * np.array([0, 0, 0.9, 0.1]))
    assert listed(lists, 0) == pytest.approx(dict(enumerate(mixed)), rel=1e-6)
    assert lists.items_UK[0].tolist() == [0, 1, 2, 3]  # .3 and .3, .3 and .1 of the two neighbours
    heavier = fuse_with_neighbours(found, Weights(0.5, 0.5), 4)
    assert heavier.items_UK[0].tolist() == [2, 0, 1, 3]


def test_without_weight_the_best_lists_are_the_fused_ones_of_the_searches():
    text, image = np.log([[0.4, 0.1, 0.3]]), np.log([[0.4, 0.2, 0.3]])
    found = near(text[0], image[0], [0, 0, 0.9])
    fused = best_lists(found, Weights(0.5), 3)
    assert fused.items_UK[0].tolist() == [0, 1, -1]  # what neighbours alone propose is not there
    assert listed(fused, 0) == listed(fuse(found, 0.5, 3), 0)
    assert fuse_reciprocal(found, 60, 3).items_UK[0].tolist() == [0, 1, -1]
    assert fuse_published(found, 1, 3).items_UK[0].tolist() == [0, 1, -1]
    assert best_lists(found, Weights(0.5, 0.5), 3).items_UK[0].tolist() == [2, 0, 1]


@pytest.mark.parametrize("absent", ["text", "image"])
def test_one_modality_joins_the_neighbours_as_two_do(absent):
    known, none = np.log([0.6, 0.3, 0.1]), [np.nan] * 3
    both = (none, known) if absent == "text" else (known, none)
    found = near(*both, [0, 0, 1.0])
    lists = fuse_with_neighbours(found, Weights(float(absent == "image"), 0.5), 3)
    assert listed(lists, 0) == pytest.approx(dict(enumerate(np.log([0.3, 0.15, 0.55]))), rel=1e-6)


def test_a_probability_too_small_for_a_number_is_still_listed():
    found = near([-1.0, -2000.0, -3.0], [-1.0, -2000.0, -3.0], [0, 0, 0])
    lists = fuse_with_neighbours(found, Weights(0.5, 0.5), 3)
    assert lists.items_UK[0].tolist() == [0, 2, 1] and np.isfinite(lists.scores_UK).all()


def test_the_list_of_neighbours_alone():
    found = near([-1.0, -2.0, -3.0, -4.0], [-1.0, -2.0, -3.0, -4.0], [0, 0.5, 0, 0.5])
    lists = neighbour_list(found, 1)
    assert lists.items_UK.tolist() == [[1, 3]]  # a tie is kept whole
