"""Evaluates the trained codebooks: codes of all items, reconstruction, use, and the floor.

Shape suffixes: N items, B batch, E embedding size, D latent size, L levels.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from components.quantize.data import Catalogue, items
from components.quantize.quantizer_training import TrainedQuantizer
from components.quantize.spec import Settings
from macrec.core.errors import check
from macrec.tokenizer.measures import measure_tokenizer
from macrec.tokenizer.quantizer import Encoding

ROWS = 8192  # items encoded and decoded at once
DECODED = 131_072  # approximate number of items decoded

OnChunk = Callable[[Mapping[str, Encoding]], None]


class Evaluation(NamedTuple):
    """The codes of all items and the metrics of the stage."""

    codes: dict[str, np.ndarray]
    """int32 [N, L] by modality, -1 for an item without the vector"""
    figures: dict[str, float]


@torch.no_grad()
def evaluate(
    trained: TrainedQuantizer,
    catalogue: Catalogue,
    config: Settings,
    on_chunk: OnChunk = lambda _: None,
) -> Evaluation:
    """Encode every item with the model of the last epoch and measure the codes.

    `text_unexplained_variance_l` is the squared error of the vectors decoded from the codes up to
    level l, divided by the variance of the vectors. At 1 the codes explain nothing, at 0
    everything. It is measured on every k-th vector, with k = 1 up to 131,072 vectors.

    Args:
        trained: the model and its history.
        catalogue: the vectors; they may be in a memory-mapped file.
        config: settings with every size filled in.
        on_chunk: is called with the latents and codes chunk by chunk, in item order.

    Raises:
        UserError: a codebook collapsed (`min_perplexity_share`).
    """
    model = trained.model
    present = {name: data.present_N for name, data in catalogue.items()}
    codes: dict[str, list[np.ndarray]] = {name: [] for name in catalogue}
    errors_L = {name: np.zeros(config.levels) for name in catalogue}
    decoded = {name: _every_kth(present_N) for name, present_N in present.items()}
    for start in range(0, items(catalogue), ROWS):
        rows = slice(start, start + ROWS)
        vectors = {name: data.embedding_NE[rows] for name, data in catalogue.items()}
        here = {name: present_N[rows] for name, present_N in present.items()}
        (chunk,) = model.encode_chunks(vectors, here, ROWS)
        on_chunk(chunk)
        for name, encoded in chunk.items():
            rows_B = here[name]
            codes_BL = encoded.codes_NL.cpu().numpy().astype(np.int32)
            codes[name].append(np.where(rows_B.cpu().numpy()[:, None], codes_BL, -1))
            kept_B = decoded[name][rows].to(encoded.codes_NL.device)
            part = model.modality(name)
            target_BE = part.normalize(vectors[name])[kept_B]
            sum_BD = torch.zeros_like(encoded.latents_ND[kept_B])
            for level, codes_B in enumerate(encoded.codes_NL[kept_B].T):
                sum_BD = sum_BD + part.codebooks[level][codes_B]
                error_BE = (part.decoder(sum_BD) - target_BE).square()
                errors_L[name][level] += float(error_BE.mean(1).double().sum())
    joined = {name: np.concatenate(parts) for name, parts in codes.items()}
    counts = {name: int(rows_N.sum()) for name, rows_N in present.items()}
    figures = measure_tokenizer(
        joined,
        config.codebook_size,
        {name: data.matrix_NE for name, data in catalogue.items()},
        {name: (errors_L[name] / int(decoded[name].sum())).tolist() for name in catalogue},
    )
    for name in catalogue:
        figures[f"{name}_items"] = float(counts[name])
        share = f"{name}_anchors_with_positive"
        if trained.history and share in trained.history[-1]:
            figures[share] = trained.history[-1][share]
    _check_perplexity(figures, config, items(catalogue))
    return Evaluation(joined, figures)


def _every_kth(present_N: torch.Tensor) -> torch.Tensor:
    """Return the rows to decode: all present rows, or evenly spaced ones of them."""
    place_N = present_N.cumsum(0) - 1
    stride = -(-int(present_N.sum()) // DECODED)
    return present_N & (place_N % max(stride, 1) == 0)


def _check_perplexity(figures: Mapping[str, float], config: Settings, count: int) -> None:
    floor = config.min_perplexity_share * config.codebook_size
    low = [
        f"{name} level {level}: perplexity {figures[f'{name}_perplexity_{level}']:.1f}, fullest "
        f"code {figures[f'{name}_largest_bucket_{level}']:.1%} of the items"
        for name in ("text", "image")
        for level in range(config.levels)
        if figures.get(f"{name}_perplexity_{level}", floor) < floor
    ]
    check(
        not low,
        f"quantize: codebooks collapsed ({'; '.join(low)}); the floor is {floor:.1f} of "
        f"{config.codebook_size} codewords for {count:,} items. Use "
        "quantize.codebook_update=refit, lower quantize.contrastive_weights, or lower "
        "quantize.min_perplexity_share.",
    )
