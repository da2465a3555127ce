"""Codes: N items, L levels, M codewords, D latent dimension."""

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macrec.core.errors import UserError
from macrec.tokenizer import assignment, collisions
from macrec.tokenizer.collisions import moved_level, resolve_collisions
from macrec.tokenizer.measures import collision_rate


def resolve(codes, latents, codebooks, ids=None, fixed=None):
    codes_NL = np.array(codes, np.int32)
    latents_ND = np.array(latents, np.float32)
    ids = [f"item{k:03d}" for k in range(len(codes_NL))] if ids is None else ids
    fixed_N = None if fixed is None else np.array(fixed, bool)
    return resolve_collisions(codes_NL, latents_ND, np.array(codebooks, np.float32), ids, fixed_N)


def error(resolved_codes, latents_ND, codebooks_LMD):
    decoded = sum(book[codes] for book, codes in zip(codebooks_LMD, resolved_codes.T, strict=True))
    return np.linalg.norm(latents_ND - decoded, axis=1)


LINE = [[[0.0], [10.0]], [[0.0], [1.0]]]  # decoded: 00 -> 0, 01 -> 1, 10 -> 10, 11 -> 11


def test_the_closest_keeps_its_code_and_the_other_takes_the_next_codeword():
    resolved = resolve([[0, 0], [0, 0], [1, 1]], [[0.4], [0.1], [11.0]], LINE)
    assert resolved.codes.tolist() == [[0, 1], [0, 0], [1, 1]]
    assert resolved.moved_level.tolist() == [1, -1, -1]
    assert resolved.displacement.tolist() == [1.0, 0.0, 0.0]


def test_identical_vectors_stay_apart_by_item_id():
    resolved = resolve([[0, 0]] * 2, [[0.2]] * 2, LINE, ids=["b", "a"])
    assert resolved.codes.tolist() == [[0, 1], [0, 0]]


def test_identical_vectors_get_the_nearest_codes_in_the_order_of_their_ids():
    line = [[[0.0], [3.0], [1.0], [2.0]]]
    resolved = resolve([[0]] * 4, [[0.1]] * 4, line, ids=["d", "b", "a", "c"])
    assert resolved.codes.ravel().tolist() == [1, 2, 0, 3]


def test_a_fixed_item_keeps_its_code_from_a_closer_one():
    resolved = resolve([[0, 0], [0, 0]], [[0.4], [0.1]], LINE, fixed=[True, False])
    assert resolved.codes.tolist() == [[0, 0], [0, 1]]
    assert resolved.moved_level.tolist() == [-1, 1]


def test_fixed_items_with_one_code_are_refused():
    with pytest.raises(UserError, match=r"2 of 3 items .* \(first: item000, item002\)"):
        resolve([[0, 0], [0, 1], [0, 0]], [[0], [0], [0]], LINE, fixed=[True] * 3)


def test_fixed_items_without_codes_do_not_collide():
    resolved = resolve([[-1, -1]] * 2, [[np.nan]] * 2, LINE, fixed=[True] * 2)
    assert resolved.codes.tolist() == [[-1, -1]] * 2


def test_the_level_moved_is_the_first_that_differs():
    before, after = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2]]), [[0, 1, 2], [0, 0, 0], [1, 1, 2]]
    assert moved_level(before, np.array(after)).tolist() == [-1, 1, 0]


def test_a_full_prefix_sends_its_farthest_item_to_another_one():
    resolved = resolve([[0, 0], [0, 0], [0, 1]], [[-0.3], [0.1], [1.0]], LINE)
    assert resolved.codes.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert resolved.moved_level.tolist() == [0, -1, -1]
    assert resolved.displacement[0] == 10.0


def test_the_closest_of_those_that_move_stays_in_the_prefix():
    resolved = resolve([[0, 0]] * 3, [[0.6], [0.0], [0.1]], LINE)
    assert resolved.codes.tolist() == [[1, 0], [0, 0], [0, 1]]


def test_the_residual_is_recomputed_below_a_changed_code():
    # Item 0 at 10.2 sits in the full prefix 0 with residual 10.2, for which codeword 1 is nearest.
    # Under prefix 1 its residual is 0.2, for which codeword 0 is.
    resolved = resolve([[0, 1], [0, 1], [0, 0]], [[10.2], [1.0], [0.0]], LINE)
    assert resolved.codes[0].tolist() == [1, 0]


def test_overflow_past_a_full_level_changes_the_level_above_it():
    # Prefix (0,) holds four items of four, so the fifth has to leave level 0.
    codebooks = [[[0.0], [100.0]], [[0.0], [10.0]], [[0.0], [1.0]]]
    full = list(itertools.product([0], [0, 1], [0, 1]))
    resolved = resolve([*full, (0, 1, 1)], [[0.0], [1.0], [10.0], [11.0], [12.0]], codebooks)
    assert resolved.codes.tolist() == [*map(list, full), [1, 0, 0]]
    assert resolved.moved_level.tolist() == [-1, -1, -1, -1, 0]


@pytest.mark.parametrize(("bound", "codes"), [(256, [0, 1, 2]), (1, [0, 2, 1])])
def test_the_sum_of_the_distances_counts_and_not_the_smallest_of_them(monkeypatch, bound, codes):
    # The losers stand at 0.5 and 1.2, for codewords 1 and 9: 0.5 + 7.8 against 8.5 + 0.2.
    monkeypatch.setattr(assignment, "LEAST_TOTAL_ITEMS", bound)
    resolved = resolve([[0], [0], [0]], [[0.0], [0.5], [1.2]], [[[0.0], [1.0], [9.0]]])
    assert resolved.codes.ravel().tolist() == codes


def test_an_item_refused_elsewhere_displaces_one_that_is_farther():
    # 1.05 and 1.1 both ask for codeword 1; 1.1 is refused and takes 2 from 1.9, at 0.3 against 0.5.
    line = [[[0.0], [1.0], [1.4], [3.0]]]
    resolved = resolve([[0]] * 4, [[0.0], [1.05], [1.1], [1.9]], line)
    assert resolved.codes.tolist() == [[0], [1], [2], [3]]


@pytest.mark.case(35)
def test_full_house_uses_every_code():
    rng = np.random.default_rng(0)
    codebooks = rng.normal(size=(3, 3, 2))
    resolved = resolve(np.zeros((27, 3)), rng.normal(size=(27, 2)), codebooks)
    assert sorted(map(tuple, resolved.codes.tolist())) == list(
        itertools.product(range(3), repeat=3)
    )


def test_missing_rows_are_passed_through():
    resolved = resolve([[-1, -1], [0, 0], [-1, -1], [0, 0]], [[np.nan], [0], [np.nan], [0]], LINE)
    assert resolved.codes.tolist() == [[-1, -1], [0, 0], [-1, -1], [0, 1]]
    assert resolved.moved_level.tolist() == [-1, -1, -1, 1]


@pytest.mark.parametrize("shape", [(0, 2), (3, 0)])
def test_no_codes_at_all(shape):
    resolved = resolve(np.full(shape, -1), np.zeros((shape[0], 1)), LINE)
    assert resolved.codes.shape == shape
    assert resolved.moved_level.tolist() == [-1] * shape[0]


@pytest.mark.case(35)
@pytest.mark.parametrize(
    ("codes", "latents", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 1)), "5 items but only 4 codes"),
        ([[0, 2]], [[0]], "1 items have codes outside 0..1"),
        ([[0, -1]], [[0]], "1 items have codes outside 0..1"),
        ([[0, 0]], [[np.nan]], "1 of 1 latents are not finite"),
        ([[0, 0, 0]], [[0]], "codes have 3 levels, the codebooks 2"),
    ],
)
def test_unsound_input_is_refused(codes, latents, message):
    with pytest.raises(UserError, match=message):
        resolve(codes, latents, LINE)


def test_codebooks_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="codebooks are not finite"):
        resolve([[0, 0]], [[0]], [[[0.0], [np.inf]], [[0.0], [1.0]]])


def test_more_levels_than_integer_keys_can_hold_are_refused():
    with pytest.raises(UserError, match=r"2\^62"):
        resolve(np.zeros((2, 8)), np.zeros((2, 1)), np.zeros((8, 256, 1)))


@st.composite
def catalogues(draw):
    """Few codewords on a coarse grid, so that prefixes overflow and distances tie."""
    size, levels, dim = draw(st.integers(2, 4)), draw(st.integers(2, 3)), draw(st.integers(1, 2))
    items = draw(st.integers(1, min(size**levels, 40)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    used = draw(st.integers(1, size))
    codes_NL = rng.integers(0, used, (items, levels)).astype(np.int32)
    grid = draw(st.sampled_from([1.0, 0.01]))
    latents_ND = (rng.integers(-4, 5, (items, dim)) * grid).astype(np.float32)
    codebooks_LMD = (rng.integers(-4, 5, (levels, size, dim)) * grid).astype(np.float32)
    return codes_NL, latents_ND, codebooks_LMD, [f"i{k}" for k in rng.permutation(items)]


@settings(deadline=None, max_examples=150)
@given(catalogues(), st.sampled_from([1, 256]), st.integers(0, 2**32 - 1))
def test_resolution_properties(catalogue, bound, seed):
    codes_NL, latents_ND, codebooks_LMD, ids = catalogue
    with mock.patch.object(assignment, "LEAST_TOTAL_ITEMS", bound):
        resolved = resolve_collisions(codes_NL, latents_ND, codebooks_LMD, ids)
        again = resolve_collisions(resolved.codes, latents_ND, codebooks_LMD, ids)
        order = np.random.default_rng(seed).permutation(len(ids))
        shuffled = resolve_collisions(
            codes_NL[order], latents_ND[order], codebooks_LMD, [ids[k] for k in order]
        )
    assert len(set(map(tuple, resolved.codes.tolist()))) == len(codes_NL)
    assert ((resolved.codes >= 0) & (resolved.codes < codebooks_LMD.shape[1])).all()
    assert (again.codes == resolved.codes).all()
    assert (again.moved_level == -1).all()
    assert (shuffled.codes == resolved.codes[order]).all()

    distances = error(codes_NL, latents_ND.astype(float), codebooks_LMD.astype(float))
    for code in set(map(tuple, codes_NL.tolist())):
        group = np.flatnonzero((codes_NL == code).all(1))
        kept = group[resolved.moved_level[group] == -1]
        assert kept.tolist() == [min(group, key=lambda k: (distances[k], ids[k]))]

    for before, after, level in zip(codes_NL, resolved.codes, resolved.moved_level, strict=True):
        assert (before[:level] == after[:level]).all() or level == -1
        assert (before != after).any() == (level >= 0)


@settings(deadline=None, max_examples=150)
@given(catalogues(), st.integers(0, 2**32 - 1))
def test_fixed_items_keep_their_codes_and_the_others_make_way(catalogue, seed):
    codes_NL, latents_ND, codebooks_LMD, ids = catalogue
    rng = np.random.default_rng(seed)
    fixed_N = rng.random(len(ids)) < rng.choice([0.05, 0.3])
    if len(np.unique(codes_NL[fixed_N], axis=0)) < fixed_N.sum():
        with pytest.raises(UserError, match="share it with another"):
            resolve_collisions(codes_NL, latents_ND, codebooks_LMD, ids, fixed_N)
        return
    resolved = resolve_collisions(codes_NL, latents_ND, codebooks_LMD, ids, fixed_N)
    assert (resolved.moved_level[fixed_N] == -1).all()
    assert collision_rate(resolved.codes) == 0
    for code in set(map(tuple, codes_NL.tolist())):
        assert (resolved.moved_level[(codes_NL == code).all(1)] == -1).sum() == 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_no_other_assignment_of_the_losers_is_shorter_in_all(seed, items):
    rng = np.random.default_rng(seed)
    latents_ND, codebook_MD = rng.normal(size=(items, 3)), rng.normal(size=(7, 3))
    distance = np.linalg.norm(latents_ND[:, None] - codebook_MD, axis=2)
    keeper = int(distance[:, 0].argmin())
    losers = [k for k in range(items) if k != keeper]
    shortest = min(
        distance[losers, codes].sum()
        for codes in map(list, itertools.permutations(range(1, 7), items - 1))
    )
    resolved = resolve_collisions(
        np.zeros((items, 1), np.int32), latents_ND, codebook_MD[None], list(map(str, range(items)))
    )
    assert distance[losers, resolved.codes[losers, 0]].sum() == pytest.approx(shortest)
    assert resolved.codes[keeper, 0] == 0


@pytest.mark.parametrize("cells", [1, 64, 1024])
def test_the_size_of_the_chunks_changes_nothing(monkeypatch, cells):
    rng = np.random.default_rng(3)
    codes_NL, latents_ND = rng.integers(0, 3, (90, 2)), rng.normal(size=(90, 5))
    codebooks_LMD = rng.normal(size=(2, 12, 5))
    expected = resolve(codes_NL, latents_ND, codebooks_LMD)
    monkeypatch.setattr(collisions, "CACHE_CELLS", cells)
    resolved = resolve(codes_NL, latents_ND, codebooks_LMD)
    assert all(np.array_equal(a, b) for a, b in zip(expected, resolved, strict=True))


@pytest.mark.parametrize("cells", [1, 64, 1024])
def test_small_blocks_keep_the_codes_unique(monkeypatch, cells):
    monkeypatch.setattr(collisions, "BLOCK_CELLS", cells)
    rng = np.random.default_rng(1)
    codes_NL = rng.integers(0, 2, (200, 3)).astype(np.int32)
    resolved = resolve(codes_NL, rng.normal(size=(200, 2)), rng.normal(size=(3, 6, 2)))
    assert collision_rate(resolved.codes) == 0


def test_ten_thousand_identical_items_get_ten_thousand_codes():
    rng = np.random.default_rng(2)
    resolved = resolve(np.zeros((10_000, 3)), np.ones((10_000, 4)), rng.normal(size=(3, 32, 4)))
    assert np.bincount(resolved.moved_level + 1).tolist() == [1, 10_000 - 1024, 1024 - 32, 31]
