"""Implements what a step minimises: the forward pass of a batch and its loss terms.

Shape suffixes: B batch, b this process's rows of it, D latent size, H head size.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.quantize import quantizer_losses
from components.quantize.data import Catalogue, Modality
from components.quantize.spec import Settings
from macrec.core.processes import ALONE, Processes
from macrec.tokenizer.quantizer import CrossModalQuantizer
from macrec.tokenizer.residual_quantization import (
    Quantization,
    nearest,
    rotate_gradient,
    sinkhorn_codes,
    straight_through,
)

ESTIMATORS = {"straight_through": straight_through, "rotation": rotate_gradient}


class Pass(NamedTuple):
    """The results of the forward pass for one modality of a batch."""

    batch: Modality
    normalized_bE: Tensor
    latent_BD: Tensor
    quantized: Quantization


def term_weights(config: Settings, modalities: tuple[str, ...]) -> dict[str, float]:
    """Return the weight of every loss term; terms of weight 0 are absent and not computed."""
    weights = {f"{name}_reconstruction": 1.0 for name in modalities}
    if config.tokenizer == "rqvae":  # fsq has a fixed grid: no codebook loss and no commitment
        weights |= {f"{name}_rq": config.rq_weight for name in modalities}
    if len(modalities) == 2:
        for level, weight in enumerate(config.per_level(config.contrastive_weights)):
            sides = modalities if config.contrastive_side == "both" else (config.contrastive_side,)
            weights |= {f"{name}_contrastive_{level}": weight for name in sides}
        weights["align"] = config.align_weight
    return {term: weight for term, weight in weights.items() if weight > 0}


class Codes:
    """Chooses the codes of a training batch.

    They are balanced at a level that has an epsilon, else the nearest.
    """

    def __init__(self, config: Settings) -> None:
        self.epsilons = config.per_level(config.sinkhorn_epsilons)
        self.iterations = config.sinkhorn_iterations

    def __call__(self, level: int, distance_BM: Tensor) -> Tensor:
        """Return codes [B]; see `macrec.tokenizer.residual_quantization.Choose`."""
        if epsilon := self.epsilons[level]:
            return sinkhorn_codes(distance_BM, epsilon, self.iterations)
        return nearest(level, distance_BM)


def forward(
    model: CrossModalQuantizer,
    batch: Catalogue,
    config: Settings,
    *,
    training: bool = True,
    processes: Processes = ALONE,
) -> dict[str, Pass]:
    """Encode and quantize the raw vectors of a batch.

    Each process encodes only its share of the batch. The rest is cheap, so every process does it on
    the whole batch, which gives each loss all positives and negatives.
    """
    normalized: dict[str, Tensor] = {}
    latents: dict[str, Tensor] = {}
    for name, part in model.parts().items():
        # A missing row becomes the mean vector, whatever bytes it contains.
        present_B = batch[name].present_N
        own_b1 = present_B[processes.share(len(present_B))][:, None]
        normalized[name] = part.normalize(batch[name].embedding_NE[:]).where(own_b1, 0.0)
        latent_bD = in_precision(part.encoder, normalized[name], config)
        latents[name] = processes.join_rows(latent_bD, len(present_B))
    quantized = model.quantize(
        latents,
        {name: data.present_N for name, data in batch.items()},
        Codes(config) if training else nearest,
        live=config.residual_gradient == "live",
    )
    return {n: Pass(batch[n], normalized[n], latents[n], quantized[n]) for n in latents}


def in_precision(network: nn.Module, input_BX: Tensor, config: Settings) -> Tensor:
    """Apply a network in the configured precision; the result has the precision of its input."""
    low = config.precision == "bfloat16"
    with torch.autocast(input_BX.device.type, torch.bfloat16, enabled=low):
        return network(input_BX).to(input_BX.dtype)


def other_labels(batch: Catalogue, name: str) -> Tensor:
    """Return the labels that decide an anchor's positives: those of the other modality.

    An item without this modality has -1.
    """
    (other,) = (data for key, data in batch.items() if key != name)
    return torch.where(batch[name].present_N, other.label_N, -1)


def loss_terms(
    model: CrossModalQuantizer,
    heads: nn.ModuleDict,
    passes: Mapping[str, Pass],
    pairs: Mapping[str, quantizer_losses.Pairs],
    config: Settings,
    processes: Processes = ALONE,
) -> dict[str, Tensor]:
    """Return every live loss term of a batch, unweighted, named as in `term_weights`.

    Each process decodes its own rows, so the reconstruction losses of all processes add up to that
    of the batch. All other terms are those of the whole batch, in every process.
    """
    weights = term_weights(config, tuple(passes))
    terms: dict[str, Tensor] = {}
    estimate = ESTIMATORS[config.gradient_estimator]
    for name, done in passes.items():
        present_B, quantized = done.batch.present_N, done.quantized
        zhat_BD = estimate(done.latent_BD, quantized.codeword_sum_BD)
        own = processes.share(len(present_B))
        error = quantizer_losses.squared_error(
            in_precision(model.modality(name).decoder, zhat_BD[own], config),
            done.normalized_bE,
            present_B[own],
            config.squared_error,
        )
        # A mean over the process's own rows becomes its part of the batch mean; a single process
        # multiplies by 1.
        kept, all_kept = (rows.sum().clamp(min=1) for rows in (present_B[own], present_B))
        terms[f"{name}_reconstruction"] = error * (kept / all_kept)
        if (term := f"{name}_rq") in weights:
            terms[term] = quantizer_losses.rq_loss(
                quantized, present_B, config.commitment, config.squared_error
            )
        for level, residual_BD in enumerate(quantized.residuals):
            if (term := f"{name}_contrastive_{level}") in weights:
                terms[term] = quantizer_losses.contrastive_loss(
                    residual_BD, pairs[name], config.temperature
                )
    if "align" in weights:
        levels = config.align_levels or config.levels
        views = [
            quantizer_losses.align_view(
                done.latent_BD, done.quantized, config.align_gradient, levels
            )
            for done in passes.values()
        ]
        if heads:
            views = [heads[name](view) for name, view in zip(passes, views, strict=True)]
        both_B = torch.stack([done.batch.present_N for done in passes.values()]).all(0)
        terms["align"] = quantizer_losses.align_loss(views[0], views[1], both_B, config.temperature)
    return terms
