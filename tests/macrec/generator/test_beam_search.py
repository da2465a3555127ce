"""Beam search and teacher forcing against stock transformers and an exhaustive oracle."""

import numpy as np
import pytest
import torch

from macrec.generator import beam_search as decoding
from macrec.generator import exhaustive
from macrec.generator.beam_search import beam_search, score_items
from macrec.generator.decoder import encode
from macrec.generator.exhaustive import best_codes, score_catalogue
from macrec.generator.hidden import HiddenNodes
from macrec.generator.model import ModelSize, build_model
from macrec.generator.tokens import (
    EOS,
    MISSING,
    PAD,
    SEQUENCE_TO_IMAGE,
    SEQUENCE_TO_TEXT,
    Vocabulary,
)
from macrec.generator.trie import Trie

DECODER_STATES = decoding.decoder_states
VOCABULARY = Vocabulary(levels=3, codebook_size=6)
SOURCES = torch.tensor(
    [[20, 30, 35, 17, 24, 31, EOS], [18, 23, 29, EOS, PAD, PAD, PAD], [MISSING, EOS] + [PAD] * 5]
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    size = ModelSize(d_model=16, d_ff=32, d_kv=8, layers=2, heads=3)
    built = build_model(VOCABULARY, size)
    with torch.no_grad():  # far from uniform, so that rankings are not decided by rounding
        for parameter in built.parameters():
            parameter.mul_(1.7)
    return built.eval()


def catalogue(items: int, seed: int = 1) -> np.ndarray:
    codes_NL = np.random.default_rng(seed).integers(0, 6, (items, 3)).astype(np.int32)
    return VOCABULARY.tokens("text", codes_NL)


def stock_scores(model, source_BS, start_token, tokens_CL) -> torch.Tensor:
    """Scores [B, C] by transformers' own forward pass, one user and code at a time."""
    rows = []
    for source_S in source_BS:
        source_1S = source_S[source_S != PAD][None]
        row = []
        for tokens_L in tokens_CL:
            given = torch.cat([torch.tensor([start_token]), tokens_L[:-1]])[None]
            with torch.no_grad():
                logits = model(input_ids=source_1S, decoder_input_ids=given).logits[0]
            row.append(logits.log_softmax(-1)[torch.arange(len(tokens_L)), tokens_L].sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_teacher_forcing_equals_stock_transformers(model):
    tokens_CL = torch.from_numpy(catalogue(7))
    encoded = encode(model, SOURCES)
    for start in (SEQUENCE_TO_TEXT, SEQUENCE_TO_IMAGE):
        ours = score_items(encoded, start, tokens_CL.expand(3, -1, -1))
        torch.testing.assert_close(ours, stock_scores(model, SOURCES, start, tokens_CL))


def test_prefixes_that_codes_share_are_decoded_once_whoever_asks(model, monkeypatch):
    """Every user asks for codes of his own; in any order they have the same scores."""
    trie, asked = Trie.build(catalogue(40)), np.random.default_rng(1)
    leaf_BW = torch.from_numpy(np.stack([asked.permutation(trie.leaves)[:20] for _ in SOURCES]))
    widths = []

    def decoder_states(encoded, token_BP, *past):
        widths.append(token_BP.shape[1])
        return DECODER_STATES(encoded, token_BP, *past)

    monkeypatch.setattr(decoding, "decoder_states", decoder_states)
    encoded = encode(model, SOURCES)
    shuffled_BW = score_items(encoded, SEQUENCE_TO_TEXT, trie.leaf_tokens[leaf_BW])
    widths.clear()
    ordered_BW, from_BW = leaf_BW.sort(dim=1)
    scores_BW = score_items(encoded, SEQUENCE_TO_TEXT, trie.leaf_tokens[ordered_BW])
    torch.testing.assert_close(scores_BW, shuffled_BW.gather(1, from_BW))
    prefixes = [trie.leaf_tokens[ordered_BW][:, :, :depth] for depth in (1, 2)]
    most = [max(len(set(map(tuple, u))) for u in p.tolist()) for p in prefixes]
    assert widths == [1, *most] and most[0] <= 6 < most[1] < 20


def test_teacher_forcing_gives_absent_codes_no_score(model):
    tokens_BCL = torch.from_numpy(catalogue(3)).expand(3, -1, -1).clone()
    tokens_BCL[:, 1] = -1
    scores_BC = score_items(encode(model, SOURCES), SEQUENCE_TO_TEXT, tokens_BCL)
    assert torch.equal(scores_BC == -torch.inf, torch.tensor([[False, True, False]] * 3))


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("items", [1, 40])
def test_enough_beams_give_the_exhaustive_ranking(model, items, renormalise):
    trie = Trie.build(catalogue(items))
    encoded = encode(model, SOURCES)
    oracle = score_catalogue(encoded, SEQUENCE_TO_TEXT, trie, renormalise=renormalise)
    found = beam_search(encoded, SEQUENCE_TO_TEXT, trie, beams=items, renormalise=renormalise)
    score_BW, leaf_BW = oracle.sort(dim=1, descending=True)
    assert torch.equal(found.leaf_BW[:, : trie.leaves], leaf_BW)
    torch.testing.assert_close(found.score_BW[:, : trie.leaves], score_BW)
    assert (found.leaf_BW[:, trie.leaves :] == -1).all()


def test_few_beams_give_true_scores_of_legal_codes_best_first(model):
    trie = Trie.build(catalogue(40))
    encoded = encode(model, SOURCES)
    oracle = score_catalogue(encoded, SEQUENCE_TO_TEXT, trie)
    found = beam_search(encoded, SEQUENCE_TO_TEXT, trie, beams=4)
    assert found.leaf_BW.shape == (3, 4)
    torch.testing.assert_close(found.score_BW, oracle.gather(1, found.leaf_BW))
    assert (found.score_BW.diff(dim=1) <= 0).all()


def test_renormalised_scores_sum_to_one_and_plain_ones_to_less(model):
    trie = Trie.build(catalogue(40))
    encoded = encode(model, SOURCES)
    within = score_catalogue(encoded, SEQUENCE_TO_TEXT, trie, renormalise=True).exp().sum(1)
    torch.testing.assert_close(within, torch.ones(3))
    assert (score_catalogue(encoded, SEQUENCE_TO_TEXT, trie).exp().sum(1) < 0.99).all()


def test_code_outside_the_trie_has_no_renormalised_score(model):
    tokens_NL = catalogue(5)
    trie = Trie.build(tokens_NL[1:])
    given = torch.from_numpy(tokens_NL).expand(3, -1, -1)
    scores = score_items(encode(model, SOURCES), SEQUENCE_TO_TEXT, given, legal=trie)
    assert (scores[:, 0] == -torch.inf).all()
    assert scores[:, 1:].isfinite().all()
    alone = given[:, 1:2].clone()
    alone[0] = -1  # a user without candidates beside others that have one
    found = score_items(encode(model, SOURCES), SEQUENCE_TO_TEXT, alone, legal=trie)
    assert found[0, 0] == -torch.inf
    torch.testing.assert_close(found[1:, 0], scores[1:, 1])


def test_no_legal_code_gives_no_beams(model):
    trie = Trie.build(np.full((4, 3), -1))
    encoded = encode(model, SOURCES)
    assert beam_search(encoded, SEQUENCE_TO_IMAGE, trie, beams=5).leaf_BW.shape == (3, 0)
    assert score_catalogue(encoded, SEQUENCE_TO_IMAGE, trie).shape == (3, 0)


def test_padding_changes_no_score(model):
    trie = Trie.build(catalogue(10))
    alone = beam_search(encode(model, SOURCES[1:2, :4]), SEQUENCE_TO_TEXT, trie, beams=5)
    batch = beam_search(encode(model, SOURCES), SEQUENCE_TO_TEXT, trie, beams=5)
    assert torch.equal(alone.leaf_BW[0], batch.leaf_BW[1])
    torch.testing.assert_close(alone.score_BW[0], batch.score_BW[1])


def test_training_mode_is_refused(model):
    model.train()
    try:
        with pytest.raises(AssertionError, match="training mode"):
            encode(model, SOURCES)
    finally:
        model.eval()


@pytest.mark.parametrize("renormalise", [False, True])
def test_catalogue_scores_are_those_of_teacher_forcing(model, renormalise, monkeypatch):
    monkeypatch.setattr(decoding, "SCORED_AT_ONCE", 7)
    monkeypatch.setattr(exhaustive, "POSITIONS_AT_ONCE", 10)  # 3 prefixes of 3 users at once
    trie = Trie.build(catalogue(40))
    encoded = encode(model, SOURCES)
    scores = score_catalogue(encoded, SEQUENCE_TO_TEXT, trie, renormalise=renormalise)
    tokens_BCL = trie.leaf_tokens.expand(3, -1, -1)
    legal = trie if renormalise else None
    forced = score_items(encoded, SEQUENCE_TO_TEXT, tokens_BCL, legal=legal)
    torch.testing.assert_close(scores, forced)


@pytest.mark.parametrize("renormalise", [False, True])
def test_logits_in_parts_are_the_same(model, renormalise, monkeypatch):
    trie = Trie.build(catalogue(40))
    encoded = encode(model, SOURCES)
    search = [encoded, SEQUENCE_TO_TEXT, trie, 7]
    whole = beam_search(*search, renormalise=renormalise)
    monkeypatch.setattr(decoding, "LOGITS_AT_ONCE", 1)
    parts = beam_search(*search, renormalise=renormalise)
    assert torch.equal(whole.leaf_BW, parts.leaf_BW)
    torch.testing.assert_close(whole.score_BW, parts.score_BW)


@pytest.mark.parametrize("renormalise", [False, True])
def test_fixed_shapes_change_nothing(model, renormalise, monkeypatch):
    tokens_NL = catalogue(40)
    trie = Trie.build(tokens_NL)
    legal = trie if renormalise else None
    given = torch.from_numpy(tokens_NL).expand(3, -1, -1)
    results = []
    for fixed in (False, True):
        monkeypatch.setattr(decoding, "_shapes_are_fixed", lambda _, fixed=fixed: fixed)
        encoded = encode(model, SOURCES)
        found = beam_search(
            encoded, SEQUENCE_TO_TEXT, trie, 7, renormalise=renormalise, hidden=seen(trie)
        )
        scores = score_items(encoded, SEQUENCE_TO_TEXT, given, legal=legal)
        results.append((*found, scores))
    for free, same in zip(*results, strict=True):
        torch.testing.assert_close(same, free)


SEEN = [np.array([0, 3, 5, 6, 7, 8, 0]), np.array([], np.int64), np.arange(38)]


def seen(trie: Trie) -> HiddenNodes:
    return trie.hidden(
        np.repeat(np.arange(3), [len(items) for items in SEEN]), np.concatenate(SEEN), 3
    )


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("search", [beam_search, best_codes])
def test_hiding_items_equals_a_trie_without_them(model, renormalise, search):
    tokens_NL = catalogue(40)
    trie = Trie.build(tokens_NL)
    hidden = seen(trie)
    start, options = SEQUENCE_TO_TEXT, {"renormalise": renormalise}
    found = search(encode(model, SOURCES), start, trie, 40, hidden=hidden, **options)
    few = search(encode(model, SOURCES), start, trie, 2, hidden=hidden, **options)
    for user, items in enumerate(SEEN):
        left = trie.restrict(~np.isin(np.arange(40), items))
        alone = encode(model, SOURCES[user : user + 1])
        score_F, leaf_F = score_catalogue(alone, start, left, **options)[0].sort(descending=True)
        leaf_W = found.leaf_BW[user, : left.leaves]
        assert trie.leaf_tokens[leaf_W].tolist() == left.leaf_tokens[leaf_F].tolist()
        torch.testing.assert_close(found.score_BW[user, : left.leaves], score_F)
        assert (found.leaf_BW[user, left.leaves :] == -1).all()
        assert (few.leaf_BW[user] >= 0).all()
        if renormalise:
            tokens_BCL = trie.leaf_tokens[found.leaf_BW.clamp(min=0)]
            encoded = encode(model, SOURCES)
            forced = score_items(encoded, start, tokens_BCL, legal=trie, hidden=hidden)
            torch.testing.assert_close(forced[user, : left.leaves], score_F)


def test_nothing_is_found_when_all_is_hidden(model):
    trie = Trie.build(catalogue(5))
    hidden = trie.hidden(np.repeat(np.arange(2), 5), np.tile(np.arange(5), 2), 3)
    for renormalise in (False, True):
        found = beam_search(
            encode(model, SOURCES),
            SEQUENCE_TO_TEXT,
            trie,
            4,
            renormalise=renormalise,
            hidden=hidden,
        )
        assert (found.leaf_BW[:2] == -1).all()
        assert (found.leaf_BW[2] >= 0).all()
        assert (found.score_BW[:2] == -torch.inf).all()
