"""Residual quantization and what stands in for its gradient, against explicit matrices and grids.

B batch, D latent size, M codebook size.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from macrec.core.errors import UserError
from macrec.tokenizer import residual_quantization
from macrec.tokenizer.residual_quantization import (
    choose_among_present,
    grid_codebooks,
    nearest,
    nearest_codes,
    residual_quantize,
    rotate_gradient,
    shared_codes,
    sinkhorn_codes,
    squared_distances,
    straight_through,
)
from tests.planted import normal

# ---------------------------------------------------------------- level by level


def test_residual_quantization_of_a_known_point():
    codebooks = [torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])]
    quantized = residual_quantize(torch.tensor([[3.0, 0.25], [0.0, 2.0]]), codebooks)
    assert quantized.codes_BL.tolist() == [[1, 1], [0, 0]]
    assert quantized.residuals[1].tolist() == [[-1.0, 0.25], [0.0, 2.0]]
    assert quantized.codeword_sum_BD.tolist() == [[3.0, 0.0], [0.0, 1.0]]


def test_given_codes_are_kept_and_the_levels_below_follow_from_them():
    codebooks = [torch.tensor([[0.0], [4.0]]), torch.tensor([[0.0], [-3.0]])]
    latent = torch.tensor([[1.0]])
    assert residual_quantize(latent, codebooks).codes_BL.tolist() == [[0, 0]]
    given = residual_quantize(latent, codebooks, given_BS=torch.tensor([[1]]))
    assert given.codes_BL.tolist() == [[1, 1]]
    assert given.residuals[1].tolist() == [[-3.0]]


def test_the_nearest_codeword_by_true_distances():
    residual, codebook = normal(50, 4), normal(9, 4, seed=1)
    expected = torch.cdist(residual, codebook).argmin(1)
    assert torch.equal(nearest_codes(residual, codebook), expected)
    assert torch.equal(nearest(0, squared_distances(residual, codebook)), expected)


def test_the_lowest_index_wins_a_tie():
    assert nearest_codes(torch.zeros(1, 1), torch.tensor([[1.0], [-1.0]])).tolist() == [0]


def test_no_gradient_passes_from_a_residual_to_a_codebook():
    latent = normal(6, 3).requires_grad_()
    codebooks = [normal(4, 3, seed=n).requires_grad_() for n in (1, 2, 3)]
    for live, expected in ((True, torch.ones(6, 3).double()), (False, None)):
        last = residual_quantize(latent, codebooks, live=live).residuals[-1]
        if not live:
            assert not last.requires_grad
            continue
        found = torch.autograd.grad(last.sum(), [latent, *codebooks], allow_unused=True)
        assert torch.equal(found[0], expected) and found[1:] == (None, None, None)


# ---------------------------------------------------------------- shared codes


def share(text, image, present_text, present_image, text_book, image_book):
    return shared_codes(
        {"text": torch.tensor(text), "image": torch.tensor(image)},
        {"text": [torch.tensor(text_book)], "image": [torch.tensor(image_book)]},
        {"text": torch.tensor(present_text), "image": torch.tensor(present_image)},
        1,
    ).tolist()


def test_shared_codes_add_the_distances_of_what_is_there():
    # Text alone would take code 0 (0.25 against 2.25), the image code 1 (9 against 1): 9.25, 3.25.
    books = [[0.0], [2.0]], [[0.0], [4.0]]
    text, image = [[0.5]] * 3, [[3.0]] * 3
    found = share(text, image, [True, True, False], [True, False, True], *books)
    assert found == [[1], [0], [1]]


def test_a_wide_space_does_not_outvote_a_narrow_one():
    # Text: 0.81 against 0.01 for its one component. Image: 0.25 a component against 0.64.
    books = [[0.0], [1.0]], [[0.0] * 4, [1.3] * 4]
    assert share([[0.9]], [[0.5] * 4], [True], [True], *books) == [[1]]
    assert share([[0.6]], [[0.5] * 4], [True], [True], *books) == [[0]]


# ---------------------------------------------------------------- estimators


def test_straight_through():
    latent, codewords = normal(5, 3).requires_grad_(), normal(5, 3, seed=1)
    passed, upstream = straight_through(latent, codewords), normal(5, 3, seed=2)
    torch.testing.assert_close(passed, codewords)
    (passed * upstream).sum().backward()
    assert torch.equal(latent.grad, upstream)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_rotation_trick_is_a_rotation_matrix_and_a_scale(size):
    """arXiv 2410.06424: R built from the plane of z and q by QR, orthogonal, determinant one."""
    latent, codewords = normal(6, size).requires_grad_(), 3 * normal(6, size, seed=1)
    upstream = normal(6, size, seed=2)
    passed = rotate_gradient(latent, codewords)
    torch.testing.assert_close(passed, codewords)
    (passed * upstream).sum().backward()
    for z, q, given, gradient in zip(
        latent.detach(), codewords, upstream, latent.grad, strict=True
    ):
        basis, upper = torch.linalg.qr(torch.stack([z, q], 1))
        across = torch.tensor([upper[0, 1] * upper[0, 0].sign(), upper[1, 1]])
        cosine, sine = across / across.norm()
        one, two = basis[:, 0] * upper[0, 0].sign(), basis[:, 1]
        turn = torch.eye(size).double() + (cosine - 1) * (one.outer(one) + two.outer(two))
        turn += sine * (two.outer(one) - one.outer(two))
        torch.testing.assert_close(turn @ turn.T, torch.eye(size).double())
        assert float(torch.linalg.det(turn)) == pytest.approx(1)
        torch.testing.assert_close(turn @ z / z.norm(), q / q.norm())
        torch.testing.assert_close(gradient, q.norm() / z.norm() * turn.T @ given)


@pytest.mark.parametrize(
    ("latent", "codeword"), [([0.0, 0.0], [1.0, 2.0]), ([1.0, 0.0], [-2.0, 0.0]), ([1.0, 0.0],) * 2]
)
def test_the_rotation_trick_where_no_plane_is_given(latent, codeword):
    latent_BD = torch.tensor([latent], requires_grad=True)
    passed = rotate_gradient(latent_BD, torch.tensor([codeword]))
    torch.testing.assert_close(passed, torch.tensor([codeword]))
    passed.sum().backward()
    assert latent_BD.grad.abs().max() < 10


# ---------------------------------------------------------------- Sinkhorn


def plain_plan(distance, epsilon, iterations):
    """Sinkhorn's algorithm as printed: a kernel whose rows and columns are scaled in turn."""
    kernel = torch.exp(-2 * distance / distance.max() / epsilon)
    rows, columns = torch.ones(len(kernel)).double(), torch.ones(kernel.shape[1]).double()
    for _ in range(iterations):
        columns = 1 / len(columns) / (kernel.T @ rows)
        rows = 1 / len(rows) / (kernel @ columns)
    return rows[:, None] * kernel * columns


def clumped(items=96, size=8):
    """Most items lie beside the first codeword."""
    codebook = 2 * normal(size, 3, seed=5)
    return codebook[torch.arange(items) % size * (torch.arange(items) % 4 == 0)] + 0.3 * normal(
        items, 3, seed=6
    ), codebook


def perplexity(codes, size):
    share = torch.bincount(codes, minlength=size) / len(codes)
    return float(torch.exp(-torch.xlogy(share, share).sum()))


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_sinkhorn_codes_are_the_maxima_of_the_plan(epsilon):
    points, codebook = clumped()
    distance = torch.cdist(points, codebook).square()
    from_nearest = distance - distance.amin(1, keepdim=True)
    plan = plain_plan(from_nearest, epsilon, 2000)
    torch.testing.assert_close(plan.sum(1), torch.full((96,), 1 / 96).double())
    torch.testing.assert_close(plan.sum(0), torch.full((8,), 1 / 8).double())
    codes = sinkhorn_codes(squared_distances(points, codebook), epsilon, 2000)
    assert torch.equal(codes, plan.argmax(1))


def test_sinkhorn_balances_what_clumps():
    points, codebook = clumped()
    distance = squared_distances(points, codebook)
    assert perplexity(distance.argmin(1), 8) < 3
    codes = sinkhorn_codes(distance, 0.01, 200)
    assert perplexity(codes, 8) > 7.5
    assert torch.bincount(distance.argmin(1)).max() > 60 and torch.bincount(codes).max() < 20


def test_a_small_epsilon_gives_the_nearest_codes_where_they_are_balanced():
    codebook = 10 * normal(8, 3, seed=5)
    points = codebook.repeat(12, 1) + normal(96, 3, seed=6)
    distance = squared_distances(points, codebook)
    assert torch.equal(sinkhorn_codes(distance, 0.003, 50), distance.argmin(1))


def test_sinkhorn_codes_depend_on_neither_place_nor_scale():
    points, codebook = clumped()
    expected = sinkhorn_codes(squared_distances(points, codebook), 0.05, 50)
    for moved in (lambda x: x + 30, lambda x: x * 1e-4, lambda x: x * 1e4):
        codes = sinkhorn_codes(squared_distances(moved(points), moved(codebook)), 0.05, 50)
        assert torch.equal(codes, expected)


def test_rows_that_are_not_there_do_not_count_for_the_balance():
    points, codebook = clumped()
    expected = sinkhorn_codes(squared_distances(points, codebook), 0.02, 100)
    more = torch.cat([points, torch.zeros(300, 3).double()])
    present = torch.arange(396) < 96
    choose = choose_among_present(present, lambda _, distance: sinkhorn_codes(distance, 0.02, 100))
    assert torch.equal(choose(0, squared_distances(more, codebook))[:96], expected)
    nobody = choose_among_present(
        present & False, lambda _, distance: sinkhorn_codes(distance, 0.02, 100)
    )
    assert nobody(0, squared_distances(more, codebook)).tolist() == [0] * 396


def test_sinkhorn_of_equal_distances_is_finite():
    assert sinkhorn_codes(torch.zeros(4, 3), 0.003, 50).tolist() == [0] * 4


# ---------------------------------------------------------------- grids


@pytest.mark.parametrize("values", [(3,), (2, 5), (8, 5, 5)])
def test_the_first_grid_rounds_every_component(values):
    """The rounding of symmetric FSQ (arXiv 2411.19842, section 3.2), component by component."""
    (grid_MD,) = grid_codebooks(values, 1)
    assert grid_MD.shape == (math.prod(values), len(values))
    latent = torch.tanh(2 * normal(300, len(values)))
    found = grid_MD[nearest_codes(latent.float(), grid_MD)].numpy()
    steps = np.array(values) - 1
    rounded = np.floor(steps * (latent.numpy() + 1) / 2 + 0.5)
    np.testing.assert_allclose(found, 2 / steps * rounded - 1, atol=1e-6)


def test_the_grid_by_hand():
    first, second, third = grid_codebooks((3, 2), 3)
    assert first.tolist() == [list(p) for p in itertools.product((-1, 0, 1), (-1, 1))]
    # A component of 3 values rounds by 0.5 at most, one of 2 values by 1.
    assert second.tolist() == [list(p) for p in itertools.product((-0.5, 0, 0.5), (-1, 1))]
    assert third.tolist() == [list(p) for p in itertools.product((-0.25, 0, 0.25), (-1, 1))]


def test_every_level_of_a_grid_covers_what_the_one_before_left():
    values = (4, 5)
    latent = torch.tanh(2 * normal(500, 2)).float()
    codebooks = list(grid_codebooks(values, 3))
    quantized = residual_quantize(latent, codebooks)
    step = torch.tensor([1 / 3, 1 / 4])
    for level, residual in enumerate(quantized.residuals):
        assert (residual.abs() <= step**level + 1e-6).all()
    assert ((latent - quantized.codeword_sum_BD).abs() <= step**3 + 1e-6).all()


def test_a_component_of_one_value_is_refused():
    with pytest.raises(UserError, match=r"\(3, 1\).*at least 2 values"):
        list(residual_quantization.grid_codebooks((3, 1), 1))
