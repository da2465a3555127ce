import math

import pytest
import torch

from components.quantize import losses
from macrec import quantization
from macrec.quantization import residual_quantize
from macrec.quantizer import CrossModalQuantizer, QuantizerSpec

# B batch, D latent size, L levels, M codebook size
B, LEVELS = 12, 3
SPEC = QuantizerSpec(
    text_dim=7, image_dim=5, latent_dim=4, hidden=(6,), levels=LEVELS, codebook_size=8
)
EVERY = torch.ones(B, dtype=torch.bool)
LABELS = torch.arange(B) % 4


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(spec=SPEC):
    return CrossModalQuantizer(spec, seed=3).double()


class Passes:
    """Both modalities of a batch in float64."""

    def __init__(self, quantizer):
        self.text_x, self.image_x = normal(B, 7), normal(B, 5, seed=1)
        self.text_z = quantizer.text.encoder(self.text_x)
        self.image_z = quantizer.image.encoder(self.image_x)
        self.text = quantizer.text.quantize(self.text_z)
        self.image = quantizer.image.quantize(self.image_z)


def reconstruction(q, p):
    decoded = q.text.decoder(quantization.straight_through(p.text_z, p.text.codeword_sum_BD))
    return losses.squared_error(decoded, p.text_x, EVERY, "mean")


def one_level_of_rq(level, commitment, codebook):
    def loss(q, p):
        one = p.text._replace(
            residuals=[p.text.residuals[level]], codewords=[p.text.codewords[level]]
        )
        total = losses.rq_loss(one, EVERY, 0.25, "mean")
        without = losses.rq_loss(one, EVERY, 0.0, "mean")
        return (total - without) * commitment + without * codebook

    return loss


def contrast(residual_BD, label_B, temperature, positives="all"):
    pairs = losses.find_pairs(label_B, positives)
    return losses.contrastive_loss(residual_BD, pairs, temperature)


def contrastive(modality, level):
    return lambda q, p: contrast(getattr(p, modality).residuals[level], LABELS, 0.1)


def align(gradient):
    def loss(q, p):
        views = (
            losses.align_view(p.text_z, p.text, gradient, LEVELS),
            losses.align_view(p.image_z, p.image, gradient, LEVELS),
        )
        return losses.align_loss(*views, EVERY, 0.1)

    return loss


ENCODERS = {"text.encoder", "image.encoder"}
CODEBOOKS = {f"{m}.codebooks.{level}" for m in ("text", "image") for level in range(LEVELS)}
REACHES = {
    "reconstruction": (reconstruction, {"text.encoder", "text.decoder"}),
    "rq": (lambda q, p: losses.rq_loss(p.text, EVERY, 0.25, "mean"),
           {"text.encoder", *(c for c in CODEBOOKS if c.startswith("text"))}),
    **{f"rq_codebook_{n}": (one_level_of_rq(n, 0, 1), {f"text.codebooks.{n}"})
       for n in range(LEVELS)},
    **{f"rq_commitment_{n}": (one_level_of_rq(n, 1, 0), {"text.encoder"}) for n in range(LEVELS)},
    **{f"{m}_contrastive_{n}": (contrastive(m, n), {f"{m}.encoder"})
       for m in ("text", "image") for n in range(LEVELS)},
    "align_codebooks": (align("codebooks"), CODEBOOKS),
    "align_encoder": (align("encoder"), ENCODERS),
    "align_both": (align("both"), ENCODERS | CODEBOOKS),
}  # fmt: skip


@pytest.mark.parametrize("term", REACHES)
def test_the_gradient_reaches_what_the_equation_names_and_nothing_else(term):
    quantizer = model()
    loss, expected = REACHES[term]
    loss(quantizer, Passes(quantizer)).backward()
    reached, size = set(), {}
    for name, parameter in quantizer.named_parameters():
        group = name if "codebooks" in name else ".".join(name.split(".")[:2])
        if parameter.grad is not None and parameter.grad.any():
            reached.add(group)
            size[group] = max(size.get(group, 0), float(parameter.grad.abs().max()))
    assert reached == expected
    assert min(size.values()) > 1e-4, size  # rounding noise would be 1e-16


@pytest.mark.parametrize("level", range(LEVELS))
def test_commitment_of_a_deep_level_has_the_gradient_of_its_equation(level):
    """d/dz sum |r_l - sg[e_l]|^2 = 2 r_l+1; a straight-through recursion gives 0 past level 0."""
    z = normal(B, 4).requires_grad_()
    quantized = residual_quantize(z, [normal(8, 4, seed=n) for n in range(LEVELS)])
    left = quantized.residuals[level] - quantized.codewords[level].detach()
    left.square().sum().backward()
    torch.testing.assert_close(z.grad, 2 * left.detach())


def test_residual_quantization_of_a_known_point():
    codebooks = [torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])]
    quantized = residual_quantize(torch.tensor([[3.0, 0.25], [0.0, 2.0]]), codebooks)
    assert quantized.codes_BL.tolist() == [[1, 1], [0, 0]]
    assert quantized.residuals[1].tolist() == [[-1.0, 0.25], [0.0, 2.0]]
    assert quantized.codeword_sum_BD.tolist() == [[3.0, 0.0], [0.0, 1.0]]


def test_the_lowest_index_wins_a_tie():
    assert quantization.nearest_codes(
        torch.zeros(1, 1), torch.tensor([[1.0], [-1.0]])
    ).tolist() == [0]


def test_rq_loss_is_summed_over_levels():
    # r = 1, 0.5; e = 0.5, 0.25: squared errors 0.25 and 0.0625, codebook and commitment alike.
    codebooks = [torch.tensor([[0.5]]), torch.tensor([[0.25]])]
    quantized = residual_quantize(torch.tensor([[1.0], [1.0]]), codebooks)
    every = torch.ones(2, dtype=torch.bool)
    assert float(losses.rq_loss(quantized, every, 0.0, "mean")) == pytest.approx(0.3125)
    assert float(losses.rq_loss(quantized, every, 0.5, "mean")) == pytest.approx(0.3125 * 1.5)


@pytest.mark.parametrize(("reduce", "expected"), [("mean", 2.5), ("sum", 5.0)])
def test_squared_error_over_components_and_present_rows(reduce, expected):
    a = torch.tensor([[1.0, 2.0], [100.0, 100.0]])
    present = torch.tensor([True, False])
    assert float(losses.squared_error(a, torch.zeros(2, 2), present, reduce)) == expected


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


def test_alignment_by_hand_both_directions_and_without_the_missing():
    a = torch.tensor([RIGHT, UP, RIGHT])
    b = torch.tensor([RIGHT, RIGHT, [9.0, 9.0]])
    present = torch.tensor([True, True, False])
    # Rows: (1, 1) and (0, 0); columns: (1, 0) and (1, 0); own: 1 and 0.
    rows = math.log(2)
    columns = (math.log(math.e + 1) - 1 + math.log(math.e + 1)) / 2
    loss = float(losses.align_loss(a, b, present, 1.0))
    assert loss == pytest.approx(rows + columns)
    assert float(losses.align_loss(a, b, ~present & False, 1.0)) == 0.0


def test_losses_do_not_overflow_at_a_small_temperature():
    residual = torch.tensor([RIGHT, LEFT, RIGHT])
    loss = contrast(residual, torch.tensor([0, 0, 1]), 1e-3)
    assert float(loss) == pytest.approx((2000 + 0) / 2, abs=1.0)
    # exp of -log would be inf here.
    assert losses.align_loss(residual, -residual, torch.ones(3).bool(), 1e-3).isfinite()


def test_gradients_agree_with_finite_differences():
    a, b = normal(6, 3).requires_grad_(), normal(6, 3, seed=1).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 1, -1])
    present = torch.tensor([True, True, False, True, True, True])
    assert torch.autograd.gradcheck(lambda x: contrast(x, labels, 0.1), (a,))
    assert torch.autograd.gradcheck(lambda x, y: losses.align_loss(x, y, present, 0.1), (a, b))
    assert torch.autograd.gradcheck(lambda x, y: losses.squared_error(x, y, present, "sum"), (a, b))


def test_an_item_on_its_codeword_does_not_blow_the_gradient_up():
    residual = normal(6, 3)
    residual[0] *= 1e-9
    residual[1] = 0
    residual.requires_grad_()
    contrast(residual, torch.tensor([0, 0, 0, 1, 1, 1]), 0.1).backward()
    assert float(residual.grad.abs().max()) < 100


def test_positive_pairs_need_two_rows_and_a_label():
    pairs = losses.find_pairs(torch.tensor([5, -1, 5, 2, -1]))
    found = torch.stack([pairs.anchor_Q, pairs.positive_Q], 1)
    assert found.tolist() == [[0, 2], [2, 0]]
    assert pairs.count_anchors().tolist() == [2, 3]
