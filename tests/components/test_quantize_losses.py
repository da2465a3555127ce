"""The losses as functions, by values computed by hand; test_quantize_gradients has the training."""

import math

import pytest
import torch

from components.quantize import quantizer_losses
from macrec.tokenizer.residual_quantization import Quantization, residual_quantize
from tests.planted import normal

B, LEVELS = 12, 3  # batch, levels


def contrast(residual_BD, label_B, temperature, positives="all"):
    pairs = quantizer_losses.find_pairs(label_B, positives)
    return quantizer_losses.contrastive_loss(residual_BD, pairs, temperature)


@pytest.mark.parametrize("level", range(LEVELS))
def test_commitment_of_a_deep_level_has_the_gradient_of_its_equation(level):
    """d/dz sum |r_l - sg[e_l]|^2 = 2 r_l+1; a straight-through recursion gives 0 past level 0."""
    z = normal(B, 4).requires_grad_()
    quantized = residual_quantize(z, [normal(8, 4, seed=n) for n in range(LEVELS)])
    left = quantized.residuals[level] - quantized.codewords[level].detach()
    left.square().sum().backward()
    torch.testing.assert_close(z.grad, 2 * left.detach())


@pytest.mark.parametrize(
    ("levels", "mean", "summed"), [([0], 0.5625, 1.125), ([1], 0.25, 0.5), ([0, 1], 0.8125, 1.625)]
)
def test_rq_loss_by_hand_is_summed_over_levels(levels, mean, summed):
    # Row 0: r_0 = (1, 2), e_0 = (1, 1); r_1 = (0, 1), e_1 = (0, 1): |r - e|^2 = 1 and 0.
    # Row 1: r_0 = (-1, 0.5), e_0 = (0, 0); r_1 = (-1, 0.5), e_1 = (-1, -0.5): 1.25 and 1.
    codebooks = [torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, -0.5]])]
    quantized = residual_quantize(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]), codebooks)
    assert quantized.codes_BL.tolist() == [[0, 0], [1, 1]]
    some = quantized._replace(
        residuals=[quantized.residuals[n] for n in levels],
        codewords=[quantized.codewords[n] for n in levels],
    )
    every = torch.ones(2, dtype=torch.bool)
    for reduce, expected in (("mean", mean), ("sum", summed)):
        for commitment in (0.0, 0.25):  # both parts have one value
            loss = quantizer_losses.rq_loss(some, every, commitment, reduce)
            assert float(loss) == pytest.approx(expected * (1 + commitment))
    first = torch.tensor([True, False])
    assert float(quantizer_losses.rq_loss(some, first, 0.0, "sum")) == (1.0 if 0 in levels else 0.0)


@pytest.mark.parametrize(("reduce", "expected"), [("mean", 2.5), ("sum", 5.0)])
def test_squared_error_over_components_and_present_rows(reduce, expected):
    a = torch.tensor([[1.0, 2.0], [100.0, 100.0]])
    present = torch.tensor([True, False])
    assert float(quantizer_losses.squared_error(a, torch.zeros(2, 2), present, reduce)) == expected


RIGHT, UP, LEFT = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


@pytest.mark.parametrize(
    ("residuals", "labels", "expected"),
    [
        # s = cosine / 0.5. Anchors 0 and 1 have each other (s = 0) and the negative 2.
        ([RIGHT, UP, RIGHT], [0, 0, 1], (math.log(1 + math.e**2) + math.log(2)) / 2),
        # Row 3 has no label: neither a negative nor an anchor.
        ([RIGHT, UP, RIGHT, RIGHT], [0, 0, 1, -1], (math.log(1 + math.e**2) + math.log(2)) / 2),
        # Two positives of anchor 0: the mean over both, and the other is no negative.
        (
            [RIGHT, RIGHT, LEFT, UP],
            [0, 0, 0, 1],
            ((math.log1p(math.e**-2) + math.log1p(math.e**2)) / 2 * 2 + math.log1p(math.e**2)) / 3,
        ),
        # Length does not count.
        ([RIGHT, [0.0, 3.0], [2.0, 0.0]], [0, 0, 1], (math.log1p(math.e**2) + math.log(2)) / 2),
        ([RIGHT, UP], [0, 1], 0.0),  # nobody has a positive
        ([RIGHT, UP], [0, 0], 0.0),  # nobody has a negative
        ([RIGHT, UP], [-1, -1], 0.0),
    ],
)
def test_contrastive_loss_by_hand(residuals, labels, expected):
    residual_BD = torch.tensor(residuals, requires_grad=True)
    loss = contrast(residual_BD, torch.tensor(labels), 0.5)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert residual_BD.grad.isfinite().all()


@pytest.mark.parametrize(
    ("residuals", "labels", "expected"),
    [
        # The anchor is its own positive, s = 1 / 0.5; every other known row is a negative, those of
        # its label too: s = 0 and 2 for anchors 0 and 2, s = 0 and 0 for anchor 1.
        ([RIGHT, UP, RIGHT], [0, 0, 1], (2 * math.log(2 + math.e**-2)
                                         + math.log(1 + 2 * math.e**-2)) / 3),
        ([RIGHT, UP, RIGHT], [0, 0, -1], math.log(1 + math.e**-2)),
        ([RIGHT, UP], [0, -1], 0.0),  # no negative
    ],
)  # fmt: skip
def test_the_anchor_as_its_own_positive_by_hand(residuals, labels, expected):
    loss = contrast(torch.tensor(residuals), torch.tensor(labels), 0.5, "self")
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_one_positive_by_hand():
    # Label 0 has rows 0, 1, 3: the positives are 1, 3, 0 in turn, s = 2, 0, 0; the negative is 2.
    residuals, labels = [RIGHT, RIGHT, LEFT, UP], torch.tensor([0, 0, 1, 0])
    one = math.log1p(math.e**-4) + math.log1p(math.e**-2) + math.log(2)
    loss = contrast(torch.tensor(residuals), labels, 0.5, "one")
    assert float(loss) == pytest.approx(one / 3, abs=1e-6)


def test_one_positive_is_another_row_of_the_label():
    label_B = torch.randint(-1, 12, (40,), generator=torch.Generator().manual_seed(0))
    label_B[7] = 99  # alone in its label
    pairs = quantizer_losses.find_pairs(label_B, "one")
    anchors, positives = pairs.anchor_Q, pairs.positive_Q
    assert (anchors != positives).all() and torch.equal(label_B[anchors], label_B[positives])
    shared = [i for i in range(40) if label_B[i] >= 0 and (label_B == label_B[i]).sum() > 1]
    assert sorted(anchors.tolist()) == sorted(positives.tolist()) == shared
    assert pairs.count_anchors().tolist() == [len(shared), int((label_B >= 0).sum())]
    assert (pairs.weight_Q == 1).all() and int(pairs.anchors) == len(shared)


@pytest.mark.parametrize("positives", ["all", "one", "self"])
def test_negatives(positives):
    label_B = torch.tensor([5, -1, 5, 2, 2, 7])
    expected = [
        [
            label_B[i] >= 0 and label_B[j] >= 0 and i != j
            and (positives == "self" or label_B[i] != label_B[j])
            for j in range(6)
        ]
        for i in range(6)
    ]  # fmt: skip
    assert quantizer_losses.find_pairs(label_B, positives).negative_BB.tolist() == expected


def test_alignment_by_hand_both_directions_and_without_the_missing():
    a = torch.tensor([RIGHT, UP, RIGHT])
    b = torch.tensor([RIGHT, RIGHT, [9.0, 9.0]])
    present = torch.tensor([True, True, False])
    # Rows: (1, 1) and (0, 0); columns: (1, 0) and (1, 0); own: 1 and 0.
    rows = math.log(2)
    columns = (math.log(math.e + 1) - 1 + math.log(math.e + 1)) / 2
    loss = float(quantizer_losses.align_loss(a, b, present, 1.0))
    assert loss == pytest.approx(rows + columns)
    assert float(quantizer_losses.align_loss(a, b, ~present & False, 1.0)) == 0.0


def test_losses_do_not_overflow_at_a_small_temperature():
    residual = torch.tensor([RIGHT, LEFT, RIGHT])
    loss = contrast(residual, torch.tensor([0, 0, 1]), 1e-3)
    assert float(loss) == pytest.approx((2000 + 0) / 2, abs=1.0)
    # exp of -log would be inf here.
    assert quantizer_losses.align_loss(residual, -residual, torch.ones(3).bool(), 1e-3).isfinite()


def test_gradients_agree_with_finite_differences():
    a, b = normal(6, 3).requires_grad_(), normal(6, 3, seed=1).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 1, -1])
    present = torch.tensor([True, True, False, True, True, True])
    for positives in ("all", "one", "self"):
        assert torch.autograd.gradcheck(lambda x, p=positives: contrast(x, labels, 0.1, p), (a,))
    assert torch.autograd.gradcheck(
        lambda x, y: quantizer_losses.align_loss(x, y, present, 0.1), (a, b)
    )
    assert torch.autograd.gradcheck(
        lambda x, y: quantizer_losses.squared_error(x, y, present, "sum"), (a, b)
    )


def test_an_item_on_its_codeword_does_not_blow_the_gradient_up():
    residual = normal(6, 3)
    residual[0] *= 1e-9
    residual[1] = 0
    residual.requires_grad_()
    contrast(residual, torch.tensor([0, 0, 0, 1, 1, 1]), 0.1).backward()
    assert float(residual.grad.abs().max()) < 100


def test_codewords_that_sum_to_zero_do_not_blow_the_gradient_up():
    """A grid with an odd number of values has the zero vector among its codewords."""
    a, b = normal(6, 3), normal(6, 3, seed=1)
    a[0] = 0
    a.requires_grad_()
    quantizer_losses.align_loss(a, b, torch.ones(6).bool(), 0.1).backward()
    assert float(a.grad.abs().max()) < 100


@pytest.mark.parametrize(
    ("gradient", "to_latent", "to_codewords"),
    [("codebooks", 0, [1, 1, 0]), ("encoder", 1, [0, 0, 0]), ("both", 1, [1, 1, 0])],
)
def test_the_alignment_sees_the_sum_of_the_first_codewords(gradient, to_latent, to_codewords):
    latent = normal(B, 4).requires_grad_()
    codewords = [normal(B, 4, seed=n).requires_grad_() for n in range(1, 4)]
    quantized = Quantization(torch.zeros(B, 3), [], codewords, sum(codewords))
    view = quantizer_losses.align_view(latent, quantized, gradient, 2)
    torch.testing.assert_close(view, codewords[0] + codewords[1])
    view.sum().backward()
    found = [0.0 if x.grad is None else float(x.grad.mean()) for x in (latent, *codewords)]
    assert found == [to_latent, *to_codewords]


def test_positive_pairs_need_two_rows_and_a_label():
    pairs = quantizer_losses.find_pairs(torch.tensor([5, -1, 5, 2, -1]))
    found = torch.stack([pairs.anchor_Q, pairs.positive_Q], 1)
    assert found.tolist() == [[0, 2], [2, 0]]
    assert pairs.count_anchors().tolist() == [2, 3]
