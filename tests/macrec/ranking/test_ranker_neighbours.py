"""Neighbours among the candidates of a search."""

import numpy as np
import pytest

from macrec.data.sequences import Sequences
from macrec.generator.scorer import GeneratorScorer
from macrec.ranking.neighbours import Counts, Neighbours
from macrec.ranking.ranker import Ranker
from tests.macrec.ranking.test_ranker import HISTORIES, LONG, recommender

ITEMS = 20


def neighbours(drawn_without=(), asymmetry=0.7) -> Neighbours:
    generator = np.random.default_rng(3)
    items = np.setdiff1d(np.arange(ITEMS), drawn_without)
    histories = generator.choice(items, (60, 5)).astype(np.int32)
    flat = Sequences(histories.ravel(), np.arange(0, 301, 5))
    return Neighbours.from_counts(Counts.from_histories(flat, ITEMS), asymmetry)


@pytest.mark.parametrize("drop_seen", [False, True])
@pytest.mark.parametrize("allowed", [range(ITEMS), range(0, ITEMS, 2)])
def test_the_best_neighbours_of_what_the_model_is_shown_are_candidates(drop_seen, allowed):
    near = neighbours()
    allowed_N = np.isin(np.arange(ITEMS), list(allowed))
    how = {"device": "cpu", "batch_size": 2, "drop_seen": drop_seen, "allowed_N": allowed_N}
    model = recommender(missing=[1, 2], shared=[(4, 9)])
    found = Ranker(model, neighbours=near, **how).candidates(LONG, 3)
    without = Ranker(model, **how).candidates(LONG, 3)
    searched = found.from_search()
    assert searched.user_P.tolist() == without.user_P.tolist()
    assert searched.item_P.tolist() == without.item_P.tolist()
    for modality in ("text", "image"):
        np.testing.assert_allclose(
            searched.scores_P[modality], without.scores_P[modality], rtol=1e-4
        )
    assert len(found.user_P) > len(searched.user_P)
    assert np.isfinite(found.scores_P["text"]).all()  # what neighbours propose is scored too
    for user, history in enumerate(LONG):
        scores_N = near.scores([history[-model.max_history :]]).toarray()[0] * allowed_N
        if drop_seen:
            scores_N[history] = 0
        mine = found.user_P == user
        shares_N = scores_N**2 / (scores_N**2).sum()
        np.testing.assert_allclose(found.share_P[mine], shares_N[found.item_P[mine]], rtol=1e-5)
        best = [i for i in np.argsort(-scores_N, kind="stable")[:3] if scores_N[i] > 0]
        assert set(best) <= set(found.item_P[mine].tolist())


def test_an_item_without_any_code_is_not_proposed():
    model = recommender()
    model.text_codes_NL[7], model.image_codes_NL[7] = -1, -1
    ranker = Ranker(model, device="cpu", batch_size=5, neighbours=neighbours())
    found = ranker.candidates(HISTORIES, ITEMS)
    assert 7 not in found.item_P and neighbours().similar_NN[:, [7]].nnz
    total_U = np.bincount(found.user_P, found.share_P)
    np.testing.assert_allclose(total_U, 1, rtol=1e-5)


def test_fixed_shapes_change_nothing():
    ranker = Ranker(recommender(), device="cpu", batch_size=6, neighbours=neighbours())
    free = ranker.candidates(HISTORIES, 4)
    ranker.fixed_shapes = True
    fixed = ranker.candidates(HISTORIES, 4)
    assert fixed.item_P.tolist() == free.item_P.tolist()
    assert fixed.share_P.tolist() == free.share_P.tolist()


def test_several_ways_are_searched_once_and_come_to_what_each_comes_to_alone(monkeypatch):
    model = recommender(missing=[1, 2], shared=[(4, 9)])
    ranker = Ranker(model, device="cpu", batch_size=2, drop_seen=True)
    ways = [neighbours(), None, neighbours([3, 5, 8], asymmetry=0.5)]
    searches = []
    monkeypatch.setattr(GeneratorScorer, "search", spied(GeneratorScorer.search, searches))
    together = ranker.candidates_by(LONG, 3, ways)
    assert len(searches) == 2 * -(-len(LONG) // 2)
    assert len({len(found.user_P) for found in together}) > 1
    for way, found in zip(ways, together, strict=True):
        ranker.neighbours = way
        alone = ranker.candidates(LONG, 3)
        assert found.user_P.tolist() == alone.user_P.tolist()
        assert found.item_P.tolist() == alone.item_P.tolist()
        assert found.share_P.tolist() == alone.share_P.tolist()
        for modality in ("text", "image"):
            assert found.found_P[modality].tolist() == alone.found_P[modality].tolist()
            np.testing.assert_allclose(
                found.scores_P[modality], alone.scores_P[modality], rtol=1e-4
            )


def spied(method, calls):
    """The method, which notes that it was called."""

    def search(self, beams):
        calls.append(beams)
        return method(self, beams)

    return search
