"""Implements the losses of the quantizer (arXiv 2511.15122, "cross-modal quantization").

The table shows where the gradient of each loss goes; the tests assert every line of it:

    reconstruction     encoder (straight-through or rotated) and decoder, no codebook
    rq, codebook part  the codebook of its own level
    rq, commitment     encoder
    contrastive at l   encoder, through r_l; no codebook, because r_l uses detached codewords
    align              depends on `align_gradient`. "codebooks" uses the raw sum of codewords: its
                       gradient reaches the codebooks of all summed levels and NOT the encoder. The
                       encoder then follows only by commitment to the codewords that moved.
                       "encoder" uses the straight-through sum. "both" gives both the same gradient.

Every loss ignores rows whose mask is False or whose label is negative, and is 0 if no row is left.

Shape suffixes: B batch, D latent size, X any size, Q pairs.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from macrec.tokenizer.residual_quantization import Quantization, straight_through

AlignGradient = Literal["codebooks", "encoder", "both"]
SquaredError = Literal["mean", "sum"]
Positives = Literal["all", "one", "self"]

NEVER = -1e4
"""The score of an ignored pair; log-sum-exp of -inf alone would have no gradient."""


def mean_over(values_B: Tensor, mask_B: Tensor) -> Tensor:
    """Return the mean of the rows that the mask keeps; 0 if there is none."""
    kept_B = torch.where(mask_B, values_B, torch.zeros_like(values_B))
    return kept_B.sum() / mask_B.sum().clamp(min=1)


def squared_error(a_BX: Tensor, b_BX: Tensor, mask_B: Tensor, reduce: SquaredError) -> Tensor:
    """Return the mean over present rows of |a - b|^2, reduced over components by "sum" or "mean".

    "sum" is the form printed in the paper.
    """
    error_BX = (a_BX - b_BX).square()
    return mean_over(error_BX.sum(1) if reduce == "sum" else error_BX.mean(1), mask_B)


def rq_loss(
    quantized: Quantization, mask_B: Tensor, commitment: float, reduce: SquaredError
) -> Tensor:
    """Return codebook loss + commitment * commitment loss, SUMMED over levels as in the paper."""
    loss = quantized.codeword_sum_BD.new_zeros(())
    for residual_BD, codeword_BD in zip(quantized.residuals, quantized.codewords, strict=True):
        loss = loss + squared_error(residual_BD.detach(), codeword_BD, mask_B, reduce)
        to_encoder = squared_error(residual_BD, codeword_BD.detach(), mask_B, reduce)
        loss = loss + commitment * to_encoder
    return loss


class Pairs(NamedTuple):
    """The positives and negatives of each row of a batch, computed once for all levels."""

    known_B: Tensor
    """bool; rows that have this modality and the label of the other"""
    negative_BB: Tensor
    """bool; row j is in the denominator of anchor i"""
    anchor_Q: Tensor
    positive_Q: Tensor
    weight_Q: Tensor
    """share of the pair in its anchor's loss; float32"""
    anchors: Tensor
    """number of anchors with a positive, at least 1"""

    def count_anchors(self) -> Tensor:
        """Return the number of anchors with a true positive in the batch, and of all; int64 [2]."""
        true_Q = self.anchor_Q != self.positive_Q
        with_B = torch.bincount(self.anchor_Q[true_Q], minlength=len(self.known_B)) > 0
        return torch.stack([with_B.sum(), self.known_B.sum()])


def find_pairs(label_B: Tensor, positives: Positives = "all") -> Pairs:
    """Return positives by equal labels and negatives by different ones; a label of -1 is neither.

    Args:
        label_B: the OTHER modality's pseudo-label of each row; int64.
        positives: "all" rows with the label; "one" of them, the next in the batch, whose order is
            random; "self", the anchor itself, with every other row as its negative. An
            implementation computes the last if it finds no positive and falls back on the anchor.
    """
    known_B = label_B >= 0
    rows_B = torch.arange(len(label_B), device=label_B.device)
    if positives == "self":
        anchor_Q = positive_Q = rows_B[known_B]
        foreign_BB = rows_B[:, None] != rows_B[None, :]
    else:
        anchor_Q, positive_Q = _same_label(label_B, only_next=positives == "one")
        foreign_BB = label_B[:, None] != label_B[None, :]
    negative_BB = foreign_BB & known_B[:, None] & known_B[None, :]
    count_B = torch.bincount(anchor_Q, minlength=len(label_B))
    anchors = (count_B > 0).sum().clamp(min=1)
    return Pairs(known_B, negative_BB, anchor_Q, positive_Q, 1 / count_B[anchor_Q].float(), anchors)


def _same_label(label_B: Tensor, *, only_next: bool) -> tuple[Tensor, Tensor]:
    """Return anchors and positives [Q]: all pairs with one label, or each row with one other.

    Sorting puts the rows of a label side by side, so no matrix [B, B] is searched.
    """
    order_B = label_B.argsort(stable=True)
    order_B = order_B[label_B[order_B] >= 0]
    _, run_B, counts = torch.unique_consecutive(
        label_B[order_B], return_inverse=True, return_counts=True
    )
    count_B, start_B = counts[run_B], (counts.cumsum(0) - counts)[run_B]
    place_B = torch.arange(len(order_B), device=label_B.device)
    if only_next:  # the last row of a label is paired with the first
        following_B = start_B + (place_B - start_B + 1) % count_B
        anchor_Q, positive_Q = order_B, order_B[following_B]
    else:
        anchor_place_Q = torch.repeat_interleave(place_B, count_B)
        within_Q = torch.arange(len(anchor_place_Q), device=label_B.device)
        within_Q = within_Q - (count_B.cumsum(0) - count_B)[anchor_place_Q]
        anchor_Q = order_B[anchor_place_Q]
        positive_Q = order_B[start_B[anchor_place_Q] + within_Q]
    kept_Q = anchor_Q != positive_Q
    return anchor_Q[kept_Q], positive_Q[kept_Q]


def unit_vectors(vector_BD: Tensor, mask_B: Tensor) -> Tensor:
    """Return vectors of unit length, so that their products are cosines.

    Vectors shorter than a tenth of the mean length in the mask are divided by that tenth instead of
    their own length. An item that lies on its codeword has a residual of rounding noise, and
    codewords of a grid may sum to zero. Such a direction has no meaning, and its gradient would be
    divided by almost zero.
    """
    length_B = vector_BD.norm(dim=1)
    shortest = mean_over(length_B.detach(), mask_B).clamp(min=1e-12) / 10
    return vector_BD / torch.maximum(length_B, shortest)[:, None]


def contrastive_loss(residual_BD: Tensor, pairs: Pairs, temperature: float) -> Tensor:
    """Return the multi-positive InfoNCE of one level's residuals.

    For anchor i with positives P(i) and negatives N(i), it is the mean over the anchors that have a
    positive of

            1/|P(i)| sum_p -log( exp s_ip / (exp s_ip + sum_{n in N(i)} exp s_in) ),

    where s = cosine / temperature. Rows of the anchor's own label are never among its negatives.
    """
    unit_BD = unit_vectors(residual_BD, pairs.known_B)
    score_BB = unit_BD @ unit_BD.T / temperature
    negatives_B = score_BB.masked_fill(~pairs.negative_BB, NEVER).logsumexp(1)
    # -log(e^p / (e^p + e^n)) = softplus(n - p), which cannot overflow.
    score_Q = score_BB[pairs.anchor_Q, pairs.positive_Q]
    loss_Q = F.softplus(negatives_B[pairs.anchor_Q] - score_Q)
    return (loss_Q * pairs.weight_Q).sum() / pairs.anchors


def align_loss(a_BD: Tensor, b_BD: Tensor, mask_B: Tensor, temperature: float) -> Tensor:
    """Return the InfoNCE between the two modalities of an item, summed over both directions.

    Similarity is the cosine divided by the temperature.
    """
    score_BB = unit_vectors(a_BD, mask_B) @ unit_vectors(b_BD, mask_B).T / temperature
    score_BB = score_BB.masked_fill(~(mask_B[:, None] & mask_B[None, :]), NEVER)
    own_B = score_BB.diagonal()
    forward = mean_over(score_BB.logsumexp(1) - own_B, mask_B)
    return forward + mean_over(score_BB.logsumexp(0) - own_B, mask_B)


def align_view(
    latent_BD: Tensor, quantized: Quantization, gradient: AlignGradient, levels: int
) -> Tensor:
    """Return the sum of the first `levels` codewords, with its gradient as `gradient` selects."""
    sum_BD = torch.stack(quantized.codewords[:levels]).sum(0)
    if gradient == "encoder":
        return straight_through(latent_BD, sum_BD)
    if gradient == "both":
        return sum_BD + (latent_BD - latent_BD.detach())
    return sum_BD
