"""Residual quantization of latents: codes, codewords and gradients (arXiv 2511.15122).

    r_0 = z;  c_l = argmin_k |r_l - e_l,k|;  r_l+1 = r_l - sg[e_l,c];  zhat = sum_l e_l,c

Shape suffixes: N items, B batch, D latent size, L levels, M codebook size, S shared levels.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from macrec.core.errors import check

Choose = Callable[[int, Tensor], Tensor]
"""(level, squared distances [B, M] to the codewords) -> codes [B]. A row of infinite distances is
an absent item and must not affect the other rows."""


class Quantization(NamedTuple):
    """The result of residual quantization; `residuals[l]` is the input of level l."""

    codes_BL: Tensor
    residuals: list[Tensor]  # L of [B, D]
    codewords: list[Tensor]  # L of [B, D]
    codeword_sum_BD: Tensor


def squared_distances(residual_BD: Tensor, codebook_MD: Tensor) -> Tensor:
    """Return squared Euclidean distances [B, M] without the term |r|^2.

    The term is equal for all codewords of a row, so it does not affect their order.
    """
    return codebook_MD.square().sum(1) - residual_BD @ (2 * codebook_MD).T


def nearest_codes(residual_BD: Tensor, codebook_MD: Tensor) -> Tensor:
    """Return the index of the nearest codeword of each row, int64 [B]; the lowest wins a tie."""
    return squared_distances(residual_BD, codebook_MD).argmin(1)


def nearest(level: int, distance_BM: Tensor) -> Tensor:
    """Choose the nearest codeword, as a frozen quantizer does, independently of the batch."""
    return distance_BM.argmin(1)


def choose_among_present(present_B: Tensor, choose: Choose) -> Choose:
    """Return `choose` with infinite distances in the rows that are not present."""
    return lambda level, distance_BM: choose(
        level, distance_BM.masked_fill(~present_B[:, None], float("inf"))
    )


def sinkhorn_codes(distance_BM: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return codes [B] that use the codewords almost evenly, from an optimal transport plan.

    The code is the maximum of a row of the plan. The plan maximises
    -<P, distance> + epsilon * entropy(P) with equal row sums and equal column sums (Cuturi 2013).
    LC-Rec uses it to balance codes (arXiv 2311.09049). Distances are first divided by half their
    range, so one epsilon (0.003 to 0.1) suits every scale. A smaller epsilon gives codes closer to
    the nearest codeword. The plan is computed in float64 and in logarithms. Rows of infinite
    distances are ignored and get code 0.
    """
    there_B1 = distance_BM.isfinite().all(1, keepdim=True)
    # Adding a constant to a row does not change its plan. Measured from the nearest codeword, the
    # range equals that of true distances, although the input lacks |r|^2.
    further_BM = (distance_BM - distance_BM.amin(1, keepdim=True)).double().where(there_B1, 0.0)
    plan_BM = -2 * further_BM / further_BM.max().clamp(min=1e-30) / epsilon
    for _ in range(iterations):
        plan_BM = plan_BM.masked_fill(~there_B1, float("-inf"))
        plan_BM = plan_BM - plan_BM.logsumexp(0, keepdim=True)
        plan_BM = plan_BM - plan_BM.logsumexp(1, keepdim=True)
    return plan_BM.masked_fill(~there_B1, 0.0).argmax(1)


def residual_quantize(
    latent_BD: Tensor,
    codebooks: Sequence[Tensor],
    *,
    choose: Choose = nearest,
    given_BS: Tensor | None = None,
    live: bool = True,
) -> Quantization:
    """Quantize latents level by level.

    Args:
        latent_BD: the latents.
        codebooks: L tensors [M, D].
        choose: picks the codes of a level from the distances.
        given_BS: predetermined codes of the first S levels, int64.
        live: False cancels the residual's gradient past level 0, as released implementations do
            by mistake. It exists only to demonstrate the difference.
    """
    residual_BD = latent_BD
    codes: list[Tensor] = []
    residuals: list[Tensor] = []
    codewords: list[Tensor] = []
    for level, codebook_MD in enumerate(codebooks):
        if given_BS is not None and level < given_BS.shape[1]:
            codes_B = given_BS[:, level]
        else:
            distance_BM = squared_distances(residual_BD.detach(), codebook_MD.detach())
            codes_B = choose(level, distance_BM)
        codeword_BD = codebook_MD[codes_B]
        codes.append(codes_B)
        residuals.append(residual_BD)
        codewords.append(codeword_BD)
        # The codeword is detached. With straight-through, r - (r + sg[e - r]) has no gradient, so
        # nothing past level 0 would train. Without detach, a level's losses would move the levels
        # above.
        residual_BD = residual_BD - codeword_BD.detach()
        if not live:
            residual_BD = residual_BD.detach()
    codeword_sum_BD = torch.stack(codewords).sum(0)
    return Quantization(torch.stack(codes, 1), residuals, codewords, codeword_sum_BD)


@torch.no_grad()
def shared_codes(
    latents: Mapping[str, Tensor],
    codebooks: Mapping[str, Sequence[Tensor]],
    present: Mapping[str, Tensor],
    levels: int,
    choose: Choose = nearest,
) -> Tensor:
    """Return codes [B, levels] that all modalities of an item share.

    A code is the codeword nearest to the item in both spaces together. Distances are averaged over
    components, so that a wide space does not outweigh a narrow one. A missing modality is ignored.
    """
    residuals = {name: latent_BD.detach() for name, latent_BD in latents.items()}
    choose_there = choose_among_present(
        torch.stack([present[name] for name in latents]).any(0), choose
    )
    codes: list[Tensor] = []
    for level in range(levels):
        distances = [
            torch.where(
                present[name][:, None],
                squared_distances(residual_BD, codebooks[name][level]) / residual_BD.shape[1],
                0.0,
            )
            for name, residual_BD in residuals.items()
        ]
        codes.append(choose_there(level, torch.stack(distances).sum(0)))
        for name in residuals:
            residuals[name] = residuals[name] - codebooks[name][level][codes[-1]]
    return torch.stack(codes, 1)


def straight_through(latent_BD: Tensor, codeword_sum_BD: Tensor) -> Tensor:
    """Return the value of the codeword sum with the gradient of the latent."""
    return latent_BD + (codeword_sum_BD - latent_BD).detach()


def rotate_gradient(latent_BD: Tensor, codeword_sum_BD: Tensor) -> Tensor:
    """Return the codeword sum; its gradient reaches the latent rotated and scaled.

    This is the rotation trick (arXiv 2410.06424, section 4.2): q = (|q|/|z|) R z. The matrix R
    rotates z's direction onto q's and is held constant. R z = z - 2 w (w.z) + 2 u' (u.z) for
    u = z/|z|, u' = q/|q|, w = (u + u')/|u + u'|. A latent of length 0 has no direction to rotate,
    so it falls back to straight-through.
    """
    length_B1 = latent_BD.norm(dim=1, keepdim=True).detach().clamp(min=1e-12)
    target_B1 = codeword_sum_BD.norm(dim=1, keepdim=True).detach()
    from_BD = (latent_BD / length_B1).detach()
    to_BD = (codeword_sum_BD / target_B1.clamp(min=1e-12)).detach()
    between_BD = F.normalize(from_BD + to_BD, dim=1)
    turned_BD = (
        latent_BD
        - 2 * between_BD * (latent_BD * between_BD).sum(1, keepdim=True)
        + 2 * to_BD * (latent_BD * from_BD).sum(1, keepdim=True)
    )
    return torch.where(
        length_B1 > 1e-6 * target_B1,
        turned_BD * (target_B1 / length_B1),
        straight_through(latent_BD, codeword_sum_BD),
    )


def grid_codebooks(values: Sequence[int], levels: int) -> Iterator[Tensor]:
    """Yield the fixed codebooks [M, D] of residual FSQ.

    FSQ is finite scalar quantization (arXiv 2309.15505), applied level by level to residuals.

    Level 0 contains every point whose component d is one of values[d] numbers spread evenly over
    [-1, 1]. So D = len(values), and M is the product of the values. The nearest point is found by
    rounding each component. Each further grid spans half a step of the level above on either side,
    which is the largest error that rounding leaves.
    """
    check(min(values) >= 2, f"a grid of {tuple(values)}: every component needs at least 2 values")
    axes = [torch.linspace(-1, 1, count) for count in values]
    grid_MD = torch.tensor(list(itertools.product(*(axis.tolist() for axis in axes))))
    step_D = torch.tensor([1 / (count - 1) for count in values])
    for level in range(levels):
        yield grid_MD * step_D**level
