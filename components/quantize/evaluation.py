"""What the trained codebooks are worth: use, collisions, reconstruction, and the floor.

Shape suffixes: N items, B batch, E embedding size, L levels, M codebook size.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.quantize.training import CHUNK, Modality, Trained, forward
from macrec.errors import check
from macrec.rqvae import Encoded, ModalityQuantizer, squared_error

if TYPE_CHECKING:
    from components.quantize.main import Config


def usage(codes_NL: Tensor, codebook_size: int) -> dict[str, float]:
    """How the codes are used, per level and together.

    Per level l: `utilisation_l` (codes in use / M), `perplexity_l` (exp of the entropy, in codes),
    `largest_bucket_l` (share of items in the fullest code). Of the full codes: `collision_rate`
    ((items - distinct codes) / items, as published tables have it) and `shared_code_share` (items
    that share their full code with another / items).
    """
    figures: dict[str, float] = {}
    for level, codes_N in enumerate(codes_NL.cpu().T):
        share_M = torch.bincount(codes_N, minlength=codebook_size).double() / len(codes_N)
        entropy = -torch.special.xlogy(share_M, share_M).sum()
        figures[f"utilisation_{level}"] = float((share_M > 0).double().mean())
        figures[f"perplexity_{level}"] = math.exp(float(entropy))
        figures[f"largest_bucket_{level}"] = float(share_M.max())
    sizes = torch.unique(codes_NL.cpu(), dim=0, return_counts=True)[1]
    figures["collision_rate"] = 1 - len(sizes) / len(codes_NL)
    figures["shared_code_share"] = float(sizes[sizes > 1].sum()) / len(codes_NL)
    return figures


@torch.no_grad()
def evaluate(
    trained: Trained, data: Modality, name: str, config: "Config"
) -> tuple[Encoded, dict[str, float]]:
    """Latents and codes of all rows, on the CPU, and the figures of those present.

    The latents and codes of missing rows mean nothing. Raises UserError if a codebook collapsed.
    """
    modality: ModalityQuantizer = getattr(trained.model, name)
    encoded = modality.encode(data.embedding_NE)
    figures = usage(encoded.codes_NL[data.present_N], config.codebook_size)
    _check_perplexity(figures, name, config)
    errors = 0.0
    for rows_B in data.present_N.nonzero()[:, 0].split(CHUNK):
        batch = data.take(rows_B, modality.mean_E.device)
        done = forward(modality, batch)
        decoded_BE = modality.decoder(done.quantized.codeword_sum_BD)
        error = squared_error(decoded_BE, done.normalized_BE, batch.present_N, "mean")
        errors += float(error) * len(rows_B)
    figures["items"] = float(data.present_N.sum())
    figures["unexplained_variance"] = errors / figures["items"]
    figures["anchors_with_positive"] = trained.history[-1][f"{name}_anchors_with_positive"]
    return Encoded(*(t.cpu() for t in encoded)), {f"{name}_{k}": v for k, v in figures.items()}


def _check_perplexity(figures: dict[str, float], name: str, config: "Config") -> None:
    floor = config.min_perplexity_share * config.codebook_size
    low = [
        f"level {level}: perplexity {figures[f'perplexity_{level}']:.1f}, fullest code "
        f"{figures[f'largest_bucket_{level}']:.1%} of the items"
        for level in range(config.levels)
        if figures[f"perplexity_{level}"] < floor
    ]
    check(
        not low,
        f"quantize: the {name} codebooks collapsed ({'; '.join(low)}); the floor is {floor:.1f} of "
        f"{config.codebook_size} codewords. Use quantizer_codebook_update=refit, lower "
        "quantizer_contrastive_weights, or lower quantizer_min_perplexity_share.",
    )
