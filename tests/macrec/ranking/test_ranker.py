"""Ranked lists and fusion, with planted scores whose right order is known."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from macrec.core.progress import Progress
from macrec.generator import decoder, exhaustive
from macrec.generator.model import ModelSize, Recommender, build_model
from macrec.generator.tokens import SEQUENCE_TO_IMAGE, SEQUENCE_TO_TEXT, Vocabulary
from macrec.generator.trie import Trie
from macrec.metrics.ranking_metrics import per_user, ranks_in_lists
from macrec.ranking import ranker as ranking
from macrec.ranking.beam_recall import beam_recall
from macrec.ranking.candidates import Candidates, candidates_of_batch
from macrec.ranking.fusion import fuse, fuse_published, single_modality_list
from macrec.ranking.ranker import Ranker, rank_users

ITEMS = 12


@dataclass
class Planted:
    """A scorer that knows the log-probability of every leaf for every user."""

    trie: Trie
    scores_BF: np.ndarray
    asked: int = 0

    def search(self, beams):
        leaf_BW = np.argsort(-self.scores_BF, axis=1, kind="stable")[:, :beams]
        return leaf_BW, np.take_along_axis(self.scores_BF, leaf_BW, 1)

    def score(self, leaf_BC):
        self.asked += int((leaf_BC >= 0).sum())
        return np.take_along_axis(self.scores_BF, np.maximum(leaf_BC, 0), 1)


def planted(probabilities_BN, missing=()) -> Planted:
    """One code per item, in item order."""
    tokens_NL = np.stack([np.arange(ITEMS), np.arange(ITEMS)], 1) + 20
    tokens_NL[list(missing)] = -1
    present = [i for i in range(ITEMS) if i not in missing]
    scores = np.log(np.asarray(probabilities_BN, np.float32))[:, present]
    return Planted(Trie.build(tokens_NL), scores)


def by_user(candidates: Candidates, user: int) -> dict[int, tuple[float, float]]:
    mine = candidates.user_P == user
    scores = candidates.scores_P
    return {
        int(item): (float(text), float(image))
        for item, text, image in zip(
            candidates.item_P[mine], scores["text"][mine], scores["image"][mine], strict=True
        )
    }


def test_every_candidate_is_scored_under_both_modalities():
    generator = np.random.default_rng(0)
    text, image = (generator.dirichlet(np.ones(ITEMS), 3) for _ in range(2))
    scorers = {"text": planted(text), "image": planted(image)}
    candidates = candidates_of_batch(scorers, beams=4)
    for user in range(3):
        found = by_user(candidates, user)
        expected = set(np.argsort(-text[user])[:4]) | set(np.argsort(-image[user])[:4])
        assert set(found) == expected
        for item, scores in found.items():
            assert scores == pytest.approx(np.log([text[user, item], image[user, item]]))
    assert scorers["text"].asked == len(candidates.user_P) - 3 * 4  # only what was not found
    assert (
        single_modality_list(candidates, "text", 4).items_UK.tolist()
        == np.argsort(-text)[:, :4].tolist()
    )


def test_fusion_beats_both_when_each_modality_knows_half():
    # text knows the row of the target (3 rows of 4), image its column: only both single it out
    targets = np.arange(ITEMS)
    row, column = np.divmod(np.arange(ITEMS), 4)
    text = np.where(row[targets][:, None] == row, 0.22, 0.015)
    image = np.where(column[targets][:, None] == column, 0.28, 0.018)
    candidates = candidates_of_batch({"text": planted(text), "image": planted(image)}, beams=6)

    def hits(lists):
        return per_user(ranks_in_lists(*lists, targets))["hr_1"].mean()

    assert hits(single_modality_list(candidates, "text", 6)) == pytest.approx(1 / 4)
    assert hits(single_modality_list(candidates, "image", 6)) == pytest.approx(1 / 3)
    assert hits(fuse(candidates, 0.5, 6)) == 1.0


@pytest.mark.parametrize(("weight", "modality"), [(1.0, "text"), (0.0, "image")])
def test_weight_of_one_modality_gives_its_order(weight, modality):
    generator = np.random.default_rng(1)
    scorers = {m: planted(generator.dirichlet(np.ones(ITEMS), 5)) for m in ("text", "image")}
    candidates = candidates_of_batch(scorers, beams=ITEMS)
    fused = fuse(candidates, weight, ITEMS)
    assert (
        fused.items_UK.tolist()
        == single_modality_list(candidates, modality, ITEMS).items_UK.tolist()
    )


def test_item_without_picture_keeps_its_share_of_the_text_probability():
    text = np.full((1, ITEMS), 0.01)
    text[0, :3] = [0.4, 0.2, 0.2]
    image = np.full((1, ITEMS), 0.001)
    image[0, 1:3] = [0.06, 0.02]  # image is less sure of everything; item 0 has no picture
    scorers = {"text": planted(text), "image": planted(image, missing=[0])}
    candidates = candidates_of_batch(scorers, beams=3)
    assert np.isnan(by_user(candidates, 0)[0][1])
    fused = fuse(candidates, 0.5, 3)
    both = [i for i in by_user(candidates, 0) if i != 0]
    stand_in = 0.4 * image[0, both].sum() / text[0, both].sum()
    assert fused.items_UK[0].tolist() == [0, 1, 2]
    assert fused.scores_UK[0, 0] == pytest.approx(0.5 * np.log(0.4) + 0.5 * np.log(stand_in))
    assert fused.scores_UK[0, 1] == pytest.approx(0.5 * np.log(0.2) + 0.5 * np.log(0.06))


def test_an_empty_image_modality_leaves_the_text_list():
    text = np.random.default_rng(2).dirichlet(np.ones(ITEMS), 4)
    empty = Planted(Trie.build(np.full((ITEMS, 2), -1)), np.zeros((4, 0), np.float32))
    candidates = candidates_of_batch({"text": planted(text), "image": empty}, beams=5)
    fused, alone = fuse(candidates, 0.3, 5), single_modality_list(candidates, "text", 5)
    assert fused.items_UK.tolist() == alone.items_UK.tolist()
    np.testing.assert_allclose(fused.scores_UK, alone.scores_UK, rtol=1e-6)
    assert (single_modality_list(candidates, "image", 5).items_UK == -1).all()


def test_items_of_one_code_are_tied_and_kept_whole():
    tokens_NL = np.array([[20, 20], [20, 21], [20, 21], [20, 21], [20, 22]])
    trie = Trie.build(tokens_NL)
    scorer = Planted(trie, np.log(np.array([[0.5, 0.3, 0.1]], np.float32)))
    candidates = candidates_of_batch({"text": scorer, "image": scorer}, beams=3)
    lists = fuse(candidates, 0.5, top_k=2)  # the tie of items 1, 2, 3 begins inside the cut
    assert lists.items_UK.tolist() == [[0, 1, 2, 3]]
    assert len(set(lists.scores_UK[0, 1:].tolist())) == 1
    value = per_user(ranks_in_lists(*lists, np.array([2])), (2,))
    assert value["hr_2"][0] == pytest.approx(1 / 3)


def test_published_rule_puts_what_both_found_first():
    text, image = np.full((1, ITEMS), 1e-6), np.full((1, ITEMS), 1e-6)
    text[0, :2], image[0, 1:3] = [0.5, 0.3], [0.3, 0.4]
    candidates = candidates_of_batch({"text": planted(text), "image": planted(image)}, beams=2)
    lists = fuse_published(candidates, levels=2, top_k=3)
    assert lists.items_UK[0].tolist() == [1, 0, 2]
    expected = [1 + np.log(0.3) / 2, np.log(0.5) / 2, np.log(0.4) / 2]  # means per token
    assert lists.scores_UK[0] == pytest.approx(expected)


VOCABULARY = Vocabulary(levels=2, codebook_size=5)


def recommender(missing=(), shared=(), source="tokens") -> Recommender:
    torch.manual_seed(3)
    size = ModelSize(d_model=16, d_ff=32, d_kv=8, layers=1, heads=2, source=source)
    model = build_model(VOCABULARY, size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.7)
    codes_NL = np.array(list(itertools.product(range(5), range(5))), np.int32)[:20]
    text_NL, image_NL = codes_NL.copy(), codes_NL[::-1].copy()
    for first, second in shared:
        text_NL[second], image_NL[second] = text_NL[first], image_NL[first]
    image_NL[list(missing)] = -1
    return Recommender(model.eval(), VOCABULARY, text_NL, image_NL, max_history=4)


HISTORIES = [np.array(h) for h in ([3, 4], [0], [5, 6, 7, 8, 9, 1], [1], [2, 3, 3])]


def stock_probability(model, source_1S, start, tokens_L):
    """Of an item; the tokens of a position are summed as the encoder does."""
    together = getattr(model.config, "tokens_per_position", 1)
    given = torch.tensor([[start, *tokens_L[:-1]]])
    with torch.no_grad():
        items_HD = model.shared(torch.tensor(source_1S[0, :-1])).unflatten(0, (-1, together)).sum(1)
        x_SD = torch.cat([items_HD, model.shared(torch.tensor(source_1S[0, -1:]))]) / together**0.5
        logits = model(inputs_embeds=x_SD[None], decoder_input_ids=given).logits[0]
    return logits.log_softmax(-1)[range(len(tokens_L)), tokens_L].sum().item()


@pytest.mark.parametrize("source", ["tokens", "items"])
def test_rank_users_gives_the_exhaustive_fused_ranking_in_the_order_given(source):
    model = recommender(missing=[1, 2], source=source)
    ranked = rank_users(
        model, HISTORIES, beams=20, top_k=20, fusion_weight=0.7, batch_size=2, device="cpu"
    )
    for user, history in enumerate(HISTORIES):
        log_p = {}
        for modality, start in (("text", SEQUENCE_TO_TEXT), ("image", SEQUENCE_TO_IMAGE)):
            source_1S = model.source_ids(modality, [history])
            codes_NL = model.codes_NL(modality)
            log_p[modality] = np.array(
                [
                    stock_probability(model.model, source_1S, start, tokens_L)
                    if codes_NL[item, 0] >= 0
                    else np.nan
                    for item, tokens_L in enumerate(
                        VOCABULARY.tokens(modality, np.maximum(codes_NL, 0))
                    )
                ]
            )
        text, image = log_p["text"], log_p["image"]
        both = ~np.isnan(image)
        gap = np.log(np.exp(image[both]).sum()) - np.log(np.exp(text[both]).sum())
        image = np.where(both, image, text + gap)
        fused = 0.7 * text + 0.3 * image
        order = np.argsort(-fused)
        assert ranked.fused_items_UK[user].tolist() == order.tolist()
        np.testing.assert_allclose(ranked.fused_scores_UK[user], fused[order], rtol=1e-4)
        assert ranked.text_items_UK[user].tolist() == np.argsort(-text).tolist()
        assert ranked.image_items_UK[user, :18].tolist() == [
            item for item in np.argsort(-log_p["image"]).tolist() if both[item]
        ]
        assert (ranked.image_items_UK[user, 18:] == -1).all()


@pytest.mark.parametrize("renormalise", [False, True])
def test_batch_size_changes_nothing(renormalise):
    alone, together = (
        rank_users(
            recommender(),
            HISTORIES,
            beams=4,
            batch_size=size,
            device="cpu",
            renormalise=renormalise,
        )
        for size in (1, 5)
    )
    for one, other in zip(alone[::2], together[::2], strict=True):
        assert one.tolist() == other.tolist()
    np.testing.assert_allclose(alone.fused_scores_UK, together.fused_scores_UK, rtol=1e-4)


def test_low_precision_scores_are_near_those_of_float32(slow_bfloat16):
    model = recommender()
    exact, near = (
        Ranker(model, device="cpu", batch_size=5, precision=precision).candidates(HISTORIES, 20)
        for precision in ("float32", "bfloat16")
    )
    assert slow_bfloat16()
    assert near.item_P.tolist() == exact.item_P.tolist()  # as many beams as items
    for modality, score_P in near.scores_P.items():
        assert score_P.dtype == np.float32 and (score_P != exact.scores_P[modality]).any()
        np.testing.assert_allclose(score_P, exact.scores_P[modality], rtol=0.05)


def test_history_of_missing_pictures_only_and_no_pictures_at_all():
    some = rank_users(recommender(missing=[0, 1]), HISTORIES, beams=4, batch_size=5, device="cpu")
    assert (some.image_items_UK[1, :4] >= 0).all()  # the history of user 1 is item 0 alone
    none = rank_users(
        recommender(missing=range(20)), HISTORIES, beams=4, batch_size=5, device="cpu"
    )
    assert (none.image_items_UK == -1).all()
    assert none.fused_items_UK.tolist() == none.text_items_UK.tolist()


def without(modality) -> Recommender:
    full = recommender()
    codes = {"text": full.text_codes_NL, "image": full.image_codes_NL}
    codes[modality] = np.full_like(codes[modality], -1)
    return Recommender(full.model, VOCABULARY, codes["text"], codes["image"], full.max_history)


@pytest.mark.parametrize(("absent", "present"), [("image", "text"), ("text", "image")])
def test_a_modality_that_no_item_has_is_not_searched(absent, present, monkeypatch):
    encoded, original = [], decoder.encode
    monkeypatch.setattr(ranking, "encode", lambda *a: encoded.append(a) or original(*a))
    alone = without(absent)
    assert alone.modalities == Ranker(alone, device="cpu", batch_size=5).modalities == (present,)
    assert recommender(missing=range(19)).modalities == ("text", "image")
    ranked = rank_users(alone, HISTORIES, beams=4, batch_size=len(HISTORIES), device="cpu")
    assert len(encoded) == 1
    both = rank_users(recommender(), HISTORIES, beams=4, batch_size=len(HISTORIES), device="cpu")
    lists = {name: getattr(both, f"{present}_{name}_UK") for name in ("items", "scores")}
    np.testing.assert_array_equal(ranked.fused_items_UK, lists["items"])
    np.testing.assert_allclose(ranked.fused_scores_UK, lists["scores"], rtol=1e-6)
    assert (getattr(ranked, f"{absent}_items_UK") == -1).all()


def test_shared_codes_are_tied_through_the_model():
    ranked = rank_users(
        recommender(shared=[(4, 9)]), HISTORIES, beams=20, top_k=20, batch_size=3, device="cpu"
    )
    for items, scores in zip(ranked.fused_items_UK, ranked.fused_scores_UK, strict=True):
        assert scores[items == 4] == scores[items == 9]


def test_single_modality_search_equals_its_list():
    model = recommender()
    ranker = Ranker(model, device="cpu", batch_size=2)
    ranked = rank_users(model, HISTORIES, beams=6, top_k=6, batch_size=2, device="cpu")
    alone = ranker.search(HISTORIES, "image", beams=6, top_k=6)
    assert alone.items_UK.tolist() == ranked.image_items_UK.tolist()


def test_model_is_left_in_the_mode_it_was_in():
    model = recommender()
    model.model.train()
    rank_users(model, HISTORIES[:1], beams=2, batch_size=1, device="cpu")
    assert model.model.training


def test_rank_users_of_nobody():
    ranked = rank_users(recommender(), [], beams=2, batch_size=1, device="cpu")
    assert ranked.fused_items_UK.shape == (0, 20)


LONG = [np.array(h) for h in ([3, 4], [0], [5, 6, 7, 8, 9, 1], [19, *range(17)], [2, 3, 3])]


@pytest.mark.parametrize("renormalise", [False, True])
def test_seen_items_are_replaced_by_the_next_best(renormalise):
    model = recommender(missing=[1, 2], shared=[(4, 9), (0, 11)])
    options = {"device": "cpu", "batch_size": 2, "renormalise": renormalise}
    ranker, dropping = Ranker(model, **options), Ranker(model, drop_seen=True, **options)
    kept = dropping.candidates(LONG, 20)
    alone = dropping.search(LONG, "text", 20, 20)
    few = dropping.search(LONG, "text", 2, 2)
    assert (few.items_UK[:, :2] >= 0).all()
    for user, history in enumerate(LONG):
        assert not set(kept.item_P[kept.user_P == user].tolist()) & set(history.tolist())
        left_N = ~np.isin(np.arange(20), history)
        if not renormalise:  # then what is left has the scores it had
            whole = ranker.candidates([history], 20)
            mask_P = left_N[whole.item_P]
            for modality in ("text", "image"):
                np.testing.assert_allclose(
                    kept.scores_P[modality][kept.user_P == user],
                    whole.scores_P[modality][mask_P],
                    rtol=1e-4,
                )
        expected = Ranker(model, allowed_N=left_N, **options).search([history], "text", 20, 20)
        assert alone.items_UK[user].tolist() == expected.items_UK[0].tolist()
        if not shared_with_seen(model, history):
            np.testing.assert_allclose(alone.scores_UK[user], expected.scores_UK[0], rtol=1e-4)


def shared_with_seen(model: Recommender, history: np.ndarray) -> bool:
    """Whether an item not seen has the code of one that was: its leaf stays, with its share."""
    codes = [tuple(row) for row in model.text_codes_NL.tolist()]
    return any(codes[i] in {codes[h] for h in history} for i in range(20) if i not in history)


@pytest.mark.parametrize("renormalise", [False, True])
def test_only_allowed_items_are_candidates_and_all_are_scored(renormalise):
    model = recommender(missing=[1, 2])
    allowed_N = np.arange(20) % 3 == 1
    ranker = Ranker(model, device="cpu", batch_size=5, allowed_N=allowed_N, renormalise=renormalise)
    found = ranker.candidates(HISTORIES, 3)
    assert allowed_N[found.item_P].all()
    assert np.isfinite(found.scores_P["text"]).all()
    assert np.isnan(found.scores_P["image"]).tolist() == np.isin(found.item_P, [1, 2]).tolist()
    top = ranker.search(HISTORIES, "text", 7, 7)
    assert sorted(top.items_UK[0].tolist()) == np.flatnonzero(allowed_N).tolist()
    if not renormalise:
        free = Ranker(model, device="cpu", batch_size=5).search(HISTORIES, "text", 20, 20)
        for user in range(len(HISTORIES)):
            expected = [i for i in free.items_UK[user].tolist() if allowed_N[i]]
            assert top.items_UK[user].tolist() == expected


@pytest.mark.parametrize("drop_seen", [False, True])
@pytest.mark.parametrize("renormalise", [False, True])
def test_what_the_other_search_found_has_the_score_that_a_search_would_give(renormalise, drop_seen):
    model = recommender(missing=[1, 2], shared=[(4, 9)])
    how = {"renormalise": renormalise, "drop_seen": drop_seen}
    ranker = Ranker(model, device="cpu", batch_size=2, **how)
    few = ranker.candidates(LONG, 2)
    ranker.exhaustive = True
    whole = ranker.candidates(LONG, 20)
    keys = [found.user_P * 20 + found.item_P for found in (few, whole)]
    place_P = np.searchsorted(keys[1], keys[0])
    assert (keys[1][place_P] == keys[0]).all()
    for modality in ("text", "image"):
        forced_P = ~few.found_P[modality]
        assert np.isfinite(few.scores_P[modality][forced_P]).sum() >= 4
        np.testing.assert_allclose(
            few.scores_P[modality], whole.scores_P[modality][place_P], rtol=1e-4, atol=1e-5
        )


def test_nothing_allowed_gives_empty_lists():
    options = {"device": "cpu", "batch_size": 5, "drop_seen": True}
    ranker = Ranker(recommender(), allowed_N=np.zeros(20, bool), **options)
    assert not len(ranker.candidates(HISTORIES, 3).item_P)
    assert (ranker.search(HISTORIES, "image", 3, 3).items_UK == -1).all()


def test_exhaustive_ranker_is_the_oracle_that_recall_is_taken_against(monkeypatch):
    walked, original = [], exhaustive.score_catalogue
    monkeypatch.setattr(
        exhaustive, "score_catalogue", lambda *a, **k: walked.append(a) or original(*a, **k)
    )
    model = recommender()
    options = {"device": "cpu", "batch_size": 2}
    oracle = Ranker(model, exhaustive=True, **options)
    lists = oracle.search(HISTORIES, "text", 6, 6)
    wide = Ranker(model, **options).search(HISTORIES, "text", 20, 6)
    assert lists.items_UK.tolist() == wide.items_UK.tolist()
    np.testing.assert_allclose(lists.scores_UK, wide.scores_UK, rtol=1e-4)
    ranker = Ranker(model, **options)
    assert beam_recall(ranker, HISTORIES, "text", 20, 4).tolist() == [1.0] * len(HISTORIES)
    one = ranker.search(HISTORIES, "text", 1, 4)
    hits = [float(one.items_UK[u, 0] in lists.items_UK[u, :4]) / 4 for u in range(len(HISTORIES))]
    walked.clear()
    assert beam_recall(ranker, HISTORIES, "text", 1, 4).tolist() == hits
    assert len(walked) == 3  # batches, by the oracle alone
    assert not ranker.exhaustive


@pytest.mark.parametrize("renormalise", [False, True])
def test_fixed_shapes_change_nothing(renormalise, monkeypatch):
    shapes, original = set(), decoder.encode
    monkeypatch.setattr(
        ranking, "encode", lambda m, s, d: shapes.add(tuple(s.shape)) or original(m, s, d)
    )
    how = {"renormalise": renormalise, "drop_seen": True}
    ranker = Ranker(recommender(), device="cpu", batch_size=6, **how)
    free = ranker.candidates(HISTORIES, 4)
    shapes.clear()
    ranker.fixed_shapes = True
    fixed = ranker.candidates(HISTORIES, 4)
    assert shapes == {(6, 16)}  # of five users
    assert fixed.item_P.tolist() == free.item_P.tolist()
    assert fixed.user_P.tolist() == free.user_P.tolist()
    np.testing.assert_allclose(fixed.scores_P["image"], free.scores_P["image"], rtol=1e-4)


def test_many_beams_make_batches_smaller(monkeypatch):
    monkeypatch.setattr(ranking, "BEAMS_AT_ONCE", 40)
    users = []
    monkeypatch.setattr(Progress, "advance", lambda self, count: users.append(count), raising=True)
    with Progress("ranking", len(HISTORIES), "users") as progress:
        Ranker(recommender(), device="cpu", batch_size=5).candidates(HISTORIES, 20, progress)
    assert users == [2, 2, 1]
