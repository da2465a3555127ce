"""Codebooks by k-means on the latents of all items.

Shape suffixes: N items, D latent size, L levels, M codebook size, P one chunk of items.
"""

import torch
from torch import Tensor, nn

from macrec.rqvae import nearest_codes

CHUNK = 65_536  # items whose distances to all codewords are held at once
ITERATIONS = 20


def _spread_start(points_ND: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centre drawn with probability proportional to its squared distance."""
    # Drawn on the CPU, so that every device takes the same items.
    draws_M = torch.rand(count, generator=generator, dtype=torch.float64).to(points_ND.device)
    nearest_N = torch.ones(len(points_ND), device=points_ND.device)
    centres: list[Tensor] = []
    for draw in draws_M:
        total_N = nearest_N.double().cumsum(0)
        index = torch.searchsorted(total_N, (draw * total_N[-1])[None]).clamp(max=len(total_N) - 1)
        centres.append(points_ND[index])
        distance_N = (points_ND - centres[-1]).square().sum(1)
        nearest_N = distance_N if len(centres) == 1 else torch.minimum(nearest_N, distance_N)
    return torch.cat(centres)


def kmeans(
    points_ND: Tensor, count: int, generator: torch.Generator, iterations: int = ITERATIONS
) -> Tensor:
    """Centres [M, D] by Lloyd's iterations from a k-means++ start.

    A centre left without items takes the item farthest from its own centre.
    """
    centres_MD = _spread_start(points_ND, count, generator)
    for _ in range(iterations):
        sums_MD = torch.zeros_like(centres_MD)
        sizes_M = torch.zeros(count, device=points_ND.device)
        distances: list[Tensor] = []
        for points_PD in points_ND.split(CHUNK):
            codes_P = nearest_codes(points_PD, centres_MD)
            # A product with the one-hot matrix: unlike a scattered sum it is repeatable on a GPU.
            member_MP = nn.functional.one_hot(codes_P, count).to(points_PD.dtype).T
            sums_MD += member_MP @ points_PD
            sizes_M += member_MP.sum(1)
            distances.append((points_PD - centres_MD[codes_P]).square().sum(1))
        empty_M = sizes_M == 0
        centres_MD = sums_MD / sizes_M.clamp(min=1)[:, None]
        farthest = torch.cat(distances).topk(count).indices
        centres_MD[empty_M] = points_ND[farthest[: int(empty_M.sum())]]
    return centres_MD


@torch.no_grad()
def refit(codebooks: nn.ParameterList, latents_ND: Tensor, generator: torch.Generator) -> None:
    """Replaces every codebook by k-means on the true residuals of ALL items, level by level."""
    residuals_ND = latents_ND.clone()
    for codebook_MD in codebooks:
        codebook_MD.copy_(kmeans(residuals_ND, len(codebook_MD), generator))
        residuals_ND -= codebook_MD[nearest_codes(residuals_ND, codebook_MD)]


@torch.no_grad()
def reseed_dead(codebooks: nn.ParameterList, latents_ND: Tensor) -> int:
    """Moves each codeword no item uses to the residual farthest from its own; returns how many."""
    residuals_ND = latents_ND.clone()
    moved = 0
    for codebook_MD in codebooks:
        codes_N = nearest_codes(residuals_ND, codebook_MD)
        dead = torch.bincount(codes_N, minlength=len(codebook_MD)).eq(0).nonzero()[:, 0]
        left_N = (residuals_ND - codebook_MD[codes_N]).square().sum(1)
        codebook_MD[dead] = residuals_ND[left_N.topk(len(dead)).indices]
        moved += len(dead)
        residuals_ND -= codebook_MD[nearest_codes(residuals_ND, codebook_MD)]
    return moved
