"""Makes codebooks follow the encoder: k-means on all items, moving means, re-seeding.

Shape suffixes: N items, B batch, D latent size, L levels, M codebook size, P one chunk of items, T
trials.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from macrec.core.errors import check
from macrec.tokenizer.quantizer import CrossModalQuantizer
from macrec.tokenizer.residual_quantization import (
    Quantization,
    nearest_codes,
    shared_codes,
    squared_distances,
)

CHUNK = 65_536  # items whose distances to all codewords are in memory at once
ITERATIONS = 20

Tensors = Mapping[str, Tensor]  # by modality


def _spread_start(points_ND: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return centres from greedy k-means++, as in scikit-learn.

    A few points are drawn with probability proportional to their squared distance from the centres
    so far. The one that lowers the sum of these distances most becomes the next centre.
    """
    trials = 2 + int(math.log(count))
    # The numbers are drawn on the CPU, so that every device takes the same items.
    draws_MT = torch.rand(count, trials, generator=generator, dtype=torch.float64)
    square_N = points_ND.square().sum(1)
    nearest_N = torch.ones_like(square_N)
    centres: list[Tensor] = []
    for draws_T in draws_MT.to(points_ND.device):
        total_N = nearest_N.double().cumsum(0)
        drawn_T = torch.searchsorted(total_N, draws_T * total_N[-1]).clamp(max=len(total_N) - 1)
        drawn_TD = points_ND[drawn_T]
        distance_TN = squared_distances(points_ND, drawn_TD).T + square_N
        distance_TN = distance_TN.clamp(min=0)
        if centres:
            distance_TN = torch.minimum(distance_TN, nearest_N)
        best_1 = distance_TN.sum(1).argmin(0, keepdim=True)
        nearest_N = distance_TN[best_1][0]
        centres.append(drawn_TD[best_1])
    return torch.cat(centres)


def kmeans(
    points_ND: Tensor, count: int, generator: torch.Generator, iterations: int = ITERATIONS
) -> Tensor:
    """Return centres [M, D] by Lloyd's iterations from a greedy k-means++ start.

    A centre without items moves to the item farthest from its own centre.
    """
    centres_MD = _spread_start(points_ND, count, generator)
    for _ in range(iterations):
        sums_MD = torch.zeros_like(centres_MD)
        sizes_M = torch.zeros(count, device=points_ND.device)
        distances: list[Tensor] = []
        for points_PD in points_ND.split(CHUNK):
            codes_P = nearest_codes(points_PD, centres_MD)
            # A product with the one-hot matrix is repeatable on a GPU, unlike a scattered sum.
            member_MP = nn.functional.one_hot(codes_P, count).to(points_PD.dtype).T
            sums_MD += member_MP @ points_PD
            sizes_M += member_MP.sum(1)
            distances.append((points_PD - centres_MD[codes_P]).square().sum(1))
        empty_M = sizes_M == 0
        centres_MD = sums_MD / sizes_M.clamp(min=1)[:, None]
        farthest = torch.cat(distances).topk(count).indices
        centres_MD[empty_M] = points_ND[farthest[: int(empty_M.sum())]]
    return centres_MD


class _Descent:
    """The residuals of all items as they pass down the levels."""

    def __init__(self, model: CrossModalQuantizer, latents: Tensors, present: Tensors) -> None:
        self.parts, self.shared = model.parts(), model.spec.shared_levels
        self.present = present
        self.residuals = {name: latent_ND.clone() for name, latent_ND in latents.items()}
        self.everything_N = torch.stack(list(present.values())).all(0)

    def codes(self, level: int) -> dict[str, Tensor]:
        """Return the codes [N] that the codebooks of a level give."""
        books = {name: [part.codebooks[level]] for name, part in self.parts.items()}
        if level < self.shared:
            codes: list[Tensor] = []
            for start in range(0, len(self.everything_N), CHUNK):
                rows = slice(start, start + CHUNK)
                residuals = {
                    name: residual_ND[rows] for name, residual_ND in self.residuals.items()
                }
                present = {name: present_N[rows] for name, present_N in self.present.items()}
                codes.append(shared_codes(residuals, books, present, 1)[:, 0])
            return dict.fromkeys(books, torch.cat(codes))
        return {
            name: torch.cat([nearest_codes(r, books[name][0]) for r in residual_ND.split(CHUNK)])
            for name, residual_ND in self.residuals.items()
        }

    def step(self, level: int) -> None:
        """Subtract the codewords of a level from the residuals."""
        for name, codes_N in self.codes(level).items():
            self.residuals[name] -= self.parts[name].codebooks[level][codes_N]


@torch.no_grad()
def refit(
    model: CrossModalQuantizer, latents: Tensors, present: Tensors, generator: torch.Generator
) -> None:
    """Replace every codebook by k-means on the true residuals of ALL items, level by level.

    A shared level clusters the items that have every modality, on both residuals side by side.
    """
    descent = _Descent(model, latents, present)
    size = model.spec.codebook_size
    for level in range(model.spec.levels):
        if level < descent.shared:
            rows = descent.everything_N
            check(
                int(rows.sum()) >= size,
                f"quantize: {int(rows.sum())} items have a text and an image vector, too few for "
                f"{size} shared codewords. Lower quantize.codebook_size or "
                "quantize.shared_levels.",
            )
            scales = {name: r.shape[1] ** 0.5 for name, r in descent.residuals.items()}
            joint_ND = torch.cat([r[rows] / scales[n] for n, r in descent.residuals.items()], 1)
            centres = kmeans(joint_ND, size, generator)
            widths = [r.shape[1] for r in descent.residuals.values()]
            for (name, scale), centres_MD in zip(
                scales.items(), centres.split(widths, dim=1), strict=True
            ):
                descent.parts[name].codebooks[level].copy_(centres_MD * scale)
        else:
            for name, residual_ND in descent.residuals.items():
                centres_MD = kmeans(residual_ND[present[name]], size, generator)
                descent.parts[name].codebooks[level].copy_(centres_MD)
        descent.step(level)


@torch.no_grad()
def reseed_dead(model: CrossModalQuantizer, latents: Tensors, present: Tensors) -> dict[str, int]:
    """Move each unused codeword to the residual farthest from its own; return how many moved.

    An unused codeword of a shared level takes both residuals of one item.
    """
    descent = _Descent(model, latents, present)
    moved = dict.fromkeys(descent.parts, 0)
    for level in range(model.spec.levels):
        shared = level < descent.shared
        codes = descent.codes(level)
        allowed = dict.fromkeys(present, descent.everything_N) if shared else present
        left: dict[str, Tensor] = {}
        for name, residual_ND in descent.residuals.items():
            codeword_ND = descent.parts[name].codebooks[level][codes[name]]
            distance_N = (residual_ND - codeword_ND).square().mean(1)
            left[name] = distance_N.masked_fill(~allowed[name], -1)
        together_N = torch.stack(list(left.values())).sum(0)
        for name, residual_ND in descent.residuals.items():
            codebook_MD = descent.parts[name].codebooks[level]
            used_N = torch.stack(list(present.values())).any(0) if shared else present[name]
            counts_M = torch.bincount(codes[name][used_N], minlength=len(codebook_MD))
            dead = counts_M.eq(0).nonzero()[:, 0][: int(allowed[name].sum())]
            farthest = (together_N if shared else left[name]).topk(len(dead)).indices
            codebook_MD[dead] = residual_ND[farthest]
            moved[name] += len(dead)
        descent.step(level)
    return moved


class MovingMeans:
    """Keeps codewords as exponential moving means of the residuals assigned to them.

    Counts and sums decay at each step (van den Oord 2017, appendix A.1); a codeword is their ratio.
    A codeword that is not chosen for long keeps its place, because both decay alike. Before they
    are too small to divide, it is left unchanged.
    """

    def __init__(self, model: CrossModalQuantizer, decay: float, batch_size: int) -> None:
        self.model, self.decay = model, decay
        # The start weighs as much as an even batch, so the first batches move the codewords gently.
        self.start = batch_size / model.spec.codebook_size
        self.reset()

    def reset(self) -> None:
        """Start again from the current codebooks."""
        self.counts: dict[str, list[Tensor]] = {}
        self.sums: dict[str, list[Tensor]] = {}
        for name, part in self.model.parts().items():
            books = [codebook.detach() for codebook in part.codebooks]
            self.counts[name] = [torch.full_like(book[:, 0], self.start) for book in books]
            self.sums[name] = [book * self.start for book in books]

    @torch.no_grad()
    def update(self, quantized: Mapping[str, Quantization], present: Tensors) -> None:
        """Update counts, sums and codewords with a batch."""
        for name, done in quantized.items():
            rows = present[name]
            for level, codebook in enumerate(self.model.modality(name).codebooks):
                codes_B = done.codes_BL[rows, level]
                member_MB = nn.functional.one_hot(codes_B, len(codebook)).to(codebook.dtype).T
                count_M, sum_MD = self.counts[name][level], self.sums[name][level]
                count_M.lerp_(member_MB.sum(1), 1 - self.decay)
                sum_MD.lerp_(member_MB @ done.residuals[level][rows].detach(), 1 - self.decay)
                seen_M = count_M > 1e-6
                codebook[seen_M] = sum_MD[seen_M] / count_M[seen_M, None]
