"""Codes: N items, L levels, E embedding size."""

import math

import numpy as np
import pytest

from macrec.tokenizer import measures
from macrec.tokenizer.measures import (
    code_agreement,
    collision_rate,
    group_sizes,
    level_usage,
    measure_tokenizer,
    neighbourhood_preservation,
    prefix_groups,
    shared_code_share,
)


def test_collision_rate_counts_the_items_that_must_move():
    codes = np.array([[0, 1], [0, 1], [0, 1], [1, 0], [-1, -1], [-1, -1]])
    assert collision_rate(codes) == 0.5
    assert shared_code_share(codes) == 0.75
    assert group_sizes(codes).tolist() == [0, 1, 0, 1]
    assert collision_rate(codes[4:]) == shared_code_share(codes[4:]) == 0


def test_usage_of_even_and_of_skewed_codes():
    even, skewed = level_usage(np.array([[0, 3], [1, 3], [2, 3], [3, 0], [-1, -1]]), 8)
    assert even == pytest.approx((0.5, 4.0, 0.5, 0.25))
    # shares in order 0 x 6, 1/4, 3/4; the sum of (2 rank - 9) x share / 8 = (5/4 + 7 x 3/4) / 8
    assert skewed == pytest.approx((0.25, 4 / 3**0.75, 0.8125, 0.75))
    assert level_usage(np.full((2, 1), -1), 8) == [(0.0, 0.0, 0.0, 0.0)]


def test_gini_is_0_for_even_use_and_its_most_for_one_codeword():
    assert level_usage(np.arange(12)[:, None] % 4, 4)[0].gini == pytest.approx(0)
    assert level_usage(np.zeros((9, 1), int), 4)[0].gini == pytest.approx(0.75)


def test_prefix_groups_do_not_overflow():
    codes_NL = np.zeros((4, 9), int)
    codes_NL[1, 0] = codes_NL[2, 8] = 32767  # 32768^9 codes are beyond 64 bits
    groups_LN = prefix_groups(codes_NL)
    assert groups_LN[:8].tolist() == [[0, 1, 0, 0]] * 8
    assert groups_LN[8].tolist() == [0, 2, 1, 0]


def test_agreement_of_equal_halved_and_unrelated_codes():
    rng = np.random.default_rng(0)
    text_NL = rng.integers(0, 4, (400, 3))
    image_NL = np.stack([3 - text_NL[:, 0], text_NL[:, 1] // 2, rng.integers(0, 4, 400)], axis=1)
    renamed, halved, unrelated = code_agreement(text_NL, image_NL)
    assert renamed == pytest.approx((1, 1))
    # I = H(image) = ln 2 and H(text) = ln 4, so 2 I / (H + H) = 2/3 but for uneven draws
    assert halved.mutual == pytest.approx(2 / 3, abs=0.01)
    assert 0 < unrelated.mutual < 0.03
    assert abs(unrelated.adjusted) < 0.01


def test_many_small_clusters_agree_by_chance_unless_adjusted():
    codes_NL = np.random.default_rng(1).integers(0, 64, (300, 2))
    (agreement,) = code_agreement(codes_NL[:, :1], codes_NL[:, 1:])
    assert agreement.mutual > 0.5
    assert abs(agreement.adjusted) < 0.05


def test_agreement_is_over_items_with_both_and_nothing_for_one_codeword():
    text_NL = np.array([[0, 0], [1, 0], [0, 0], [1, 0], [-1, -1]])
    image_NL = np.array([[1, 0], [0, 0], [1, 1], [-1, -1], [1, 1]])
    assert code_agreement(text_NL, image_NL) == [pytest.approx((1, 1)), (0, 0)]
    assert code_agreement(text_NL * 0, text_NL * 0) == [(0, 0), (0, 0)]
    assert code_agreement(text_NL, np.full((5, 2), -1)) == []
    assert code_agreement(text_NL, np.zeros((5, 0), int)) == []


def test_a_large_catalogue_is_sampled_for_the_agreement():
    codes_NL = np.random.default_rng(2).integers(0, 8, (500, 1))
    assert code_agreement(codes_NL, codes_NL, items=100) == [pytest.approx((1, 1))]
    related_NL = np.where(np.arange(500)[:, None] < 250, codes_NL, 0)
    sampled, whole = (code_agreement(codes_NL, related_NL, items=k)[0] for k in (200, 500))
    assert sampled != whole
    assert sampled.adjusted == pytest.approx(whole.adjusted, abs=0.1)


# Three directions on a circle; items 0-2 and 3-5 lie together, 6 alone. Their mean is near 0.
ANGLES = np.radians([0, 5, 10, 120, 125, 130, 245])
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def test_preservation_by_hand():
    codes_NL = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [1, 0], [0, 0]])
    first, second = neighbourhood_preservation(CIRCLE, codes_NL, neighbours=2)
    # item 6's two nearest are 5 and 0, of which 0 shares its first code; all else is kept
    assert first.recall == pytest.approx((3 * 2 + 3 * 2 + 1) / 14)
    assert first.candidates == pytest.approx((4 * 3 + 3 * 2) / 7 / 6)
    assert second.recall == pytest.approx((1 + 1 + 0 + 3 * 2 + 1) / 14)
    assert second.candidates == pytest.approx((3 * 2 + 0 + 3 * 2) / 7 / 6)


def test_the_mean_is_taken_off_and_lengths_do_not_count():
    circle_NE = np.vstack([CIRCLE, -CIRCLE])  # of mean 0, as the stretched one is
    lengths_N1 = np.array([1, 9, 3, 2, 5, 1, 1] * 2)[:, None]
    codes_NL = np.array([[0], [0], [0], [1], [1], [1], [0], [2], [3], [2], [3], [3], [3], [2]])
    found = neighbourhood_preservation(circle_NE, codes_NL, neighbours=2)
    assert neighbourhood_preservation(circle_NE * lengths_N1, codes_NL, neighbours=2) == found
    shifted_NE = circle_NE + np.array([50, -20])
    assert neighbourhood_preservation(shifted_NE, codes_NL, neighbours=2) == found


def test_a_collapsed_codebook_has_recall_1_and_all_candidates():
    assert neighbourhood_preservation(CIRCLE, np.zeros((7, 1), int)) == [(1.0, 1.0)]


@pytest.mark.parametrize("chunk", [1 << 10, 1 << 14, 1 << 26])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_slices_of_a_memory_map_give_what_the_whole_gives(tmp_path, monkeypatch, chunk, dtype):
    rng = np.random.default_rng(3)
    embedding_NE = rng.normal(size=(120, 6)).astype(dtype)
    codes_NL = rng.integers(0, 3, (120, 2))
    codes_NL[::7] = -1
    embedding_NE[::7] = 9  # such rows are neither queries nor neighbours nor in the mean
    path = tmp_path / "embeddings"
    np.memmap(path, dtype, "w+", shape=(120, 6))[:] = embedding_NE
    mapped_NE = np.memmap(path, dtype, "r", shape=(120, 6))

    there_N = codes_NL[:, 0] >= 0
    rows_RE, codes_RL = embedding_NE[there_N].astype(float), codes_NL[there_N]
    rows_RE -= rows_RE.mean(0)
    rows_RE /= np.linalg.norm(rows_RE, axis=1, keepdims=True)
    cosine_RR = rows_RE @ rows_RE.T - 9 * np.eye(len(rows_RE))
    near_RK = np.argsort(-cosine_RR, axis=1)[:, :10]
    recall = [(codes_RL[near_RK, :d] == codes_RL[:, None, :d]).all(2).mean() for d in (1, 2)]

    monkeypatch.setattr(measures, "CHUNK_BYTES", chunk)
    found = neighbourhood_preservation(mapped_NE, codes_NL)
    assert [p.recall for p in found] == pytest.approx(recall, abs=1e-3)
    sampled = neighbourhood_preservation(mapped_NE, codes_NL, queries=40)
    assert sampled == neighbourhood_preservation(mapped_NE, codes_NL, queries=40)
    assert [p.recall for p in sampled] == pytest.approx(recall, abs=0.1)
    assert sampled != found


def test_random_codes_have_the_recall_of_chance():
    rng = np.random.default_rng(4)
    found = neighbourhood_preservation(rng.normal(size=(600, 4)), rng.integers(0, 4, (600, 2)))
    for recall, candidates in found:
        # 6000 neighbours, many of them counted from both ends
        assert recall == pytest.approx(candidates, abs=4 * math.sqrt(candidates / 6000))


def test_fewer_items_than_neighbours():
    assert neighbourhood_preservation(CIRCLE[:3], np.array([[0], [0], [1]])) == [
        pytest.approx((1 / 3, 1 / 3))
    ]
    assert neighbourhood_preservation(CIRCLE[:2], np.array([[0], [-1]])) == []


def test_all_measures_by_name():
    codes_NL = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [1, 1], [-1, -1]])
    codes = {"text": codes_NL, "image": 1 - codes_NL.clip(0, 1)}
    figures = measure_tokenizer(codes, 2, {"text": CIRCLE}, {"text": [0.5, 0.25]})
    assert all(type(value) is float and math.isfinite(value) for value in figures.values())
    assert figures["text_perplexity_0"] == pytest.approx(2)
    assert figures["text_collision_rate"] == pytest.approx(2 / 6)
    assert figures["text_shared_code_share"] == pytest.approx(4 / 6)
    assert figures["text_unexplained_variance_1"] == 0.25
    assert figures["agreement_0"] == figures["agreement_adjusted_1"] == pytest.approx(1)
    assert figures["text_candidates_1"] == pytest.approx(2 / 5)
    usage = {
        f"{n}_{k}" for n in ("utilisation", "perplexity", "gini", "largest_bucket") for k in "01"
    }
    usage |= {"collision_rate", "shared_code_share"}
    only_text = {"recall_1", "recall_2", "candidates_1", "candidates_2"}
    only_text |= {"unexplained_variance_0", "unexplained_variance_1"}
    both = {f"agreement_{k}" for k in ("0", "1", "adjusted_0", "adjusted_1")}
    named = {f"text_{n}" for n in usage | only_text} | {f"image_{n}" for n in usage}
    assert set(figures) == named | both


@pytest.mark.parametrize("absent", [np.full((7, 2), -1), np.zeros((7, 0), int), None])
def test_a_run_of_one_modality_has_the_measures_of_one(absent):
    codes_NL = np.arange(14).reshape(7, 2) % 3
    codes = {"image": codes_NL} | ({} if absent is None else {"text": absent})
    figures = measure_tokenizer(codes, 3, {"image": CIRCLE, "text": CIRCLE})
    assert figures and all(name.startswith("image_") for name in figures)
    assert "image_recall_2" in figures
