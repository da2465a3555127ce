"""Trains the two quantizers together: the losses of a batch, the epochs, the checks on the way.

Shape suffixes: N items, B batch, E embedding size, D latent size, S steps, T loss terms.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from components.quantize import codebooks
from macrec.errors import UserError, check
from macrec.rqvae import (
    MODALITIES,
    CrossModalQuantizer,
    ModalityQuantizer,
    Quantized,
    QuantizerSpec,
    align_loss,
    align_view,
    contrastive_loss,
    positive_pairs,
    rq_loss,
    squared_error,
    straight_through,
)

if TYPE_CHECKING:
    from components.quantize.main import Config

CHUNK = 65_536  # rows normalised at once


class Modality(NamedTuple):
    """One modality of all items, or of a batch. Rows with `present` False are never read."""

    embedding_NE: Tensor
    present_N: Tensor  # bool
    label_N: Tensor  # int64 pseudo-label of THIS modality, -1 without one

    def take(self, rows_B: Tensor, device: torch.device) -> "Modality":
        """The given rows, on the device."""
        return Modality(*(t[rows_B.to(t.device)].to(device) for t in self))

    def to(self, device: torch.device) -> "Modality":
        """All rows, on the device."""
        return Modality(*(t.to(device) for t in self))


class Catalogue(NamedTuple):
    """Both modalities; row k of each is item k."""

    text: Modality
    image: Modality


class Trained(NamedTuple):
    """The model with one record of figures per epoch, losses as means over the steps."""

    model: CrossModalQuantizer
    history: list[dict[str, Any]]


class Pass(NamedTuple):
    """One modality of a batch on its way through the model."""

    latent_BD: Tensor
    quantized: Quantized
    normalized_BE: Tensor


def level_weights(config: "Config") -> tuple[float, ...]:
    """One contrastive weight per level; a shorter tuple belongs to the LAST levels."""
    zeros = (0.0,) * (config.levels - len(config.contrastive_weights))
    return zeros + config.contrastive_weights


def term_weights(config: "Config") -> dict[str, float]:
    """The factor of every loss term in the total; a term of weight 0 is not computed."""
    weights = {f"{name}_{term}": 1.0 for term in ("reconstruction", "rq") for name in MODALITIES}
    for level, weight in enumerate(level_weights(config)):
        weights |= {f"{name}_contrastive_{level}": weight for name in MODALITIES}
    weights["align"] = config.align_weight
    return {term: weight for term, weight in weights.items() if weight > 0}


def forward(modality: ModalityQuantizer, batch: Modality) -> Pass:
    """Encodes and quantizes the raw vectors of one modality of a batch."""
    normalized_BE = modality.normalize(batch.embedding_NE.float())
    # A missing row holds nothing: make it the mean vector, whatever bytes stand there.
    normalized_BE = torch.where(batch.present_N[:, None], normalized_BE, 0.0)
    latent_BD = modality.encoder(normalized_BE)
    return Pass(latent_BD, modality.quantize(latent_BD), normalized_BE)


def _other_label(own: Modality, other: Modality) -> Tensor:
    """The label that decides an anchor's positives: the other modality's, where both are there."""
    return torch.where(own.present_N, other.label_N, -1)


def loss_terms(model: CrossModalQuantizer, batch: Catalogue, config: "Config") -> dict[str, Tensor]:
    """Every live loss term of a batch, unweighted; the names are those of `term_weights`."""
    weights = term_weights(config)
    passes: dict[str, Pass] = {}
    terms: dict[str, Tensor] = {}
    sides = (("text", batch.text, batch.image), ("image", batch.image, batch.text))
    for name, own, other in sides:
        modality: ModalityQuantizer = getattr(model, name)
        done = passes[name] = forward(modality, own)
        decoded_BE = modality.decoder(
            straight_through(done.latent_BD, done.quantized.codeword_sum_BD)
        )
        terms[f"{name}_reconstruction"] = squared_error(
            decoded_BE, done.normalized_BE, own.present_N, config.squared_error
        )
        terms[f"{name}_rq"] = rq_loss(
            done.quantized, own.present_N, config.commitment, config.squared_error
        )
        for level, residual_BD in enumerate(done.quantized.residuals):
            if (term := f"{name}_contrastive_{level}") in weights:
                label_B = _other_label(own, other)
                terms[term] = contrastive_loss(residual_BD, label_B, config.temperature)
    if "align" in weights:
        text_BD, image_BD = (
            align_view(done.latent_BD, done.quantized, config.align_gradient)
            for done in passes.values()
        )
        both_B = batch.text.present_N & batch.image.present_N
        terms["align"] = align_loss(text_BD, image_BD, both_B, config.temperature)
    return terms


def positive_share(batch: Catalogue) -> Tensor:
    """Anchors with a positive in the batch and all anchors, per modality: float64 [2, 2]."""
    counts: list[Tensor] = []
    for own, other in ((batch.text, batch.image), (batch.image, batch.text)):
        label_B = _other_label(own, other)
        counts += [positive_pairs(label_B).any(1).sum(), (label_B >= 0).sum()]
    return torch.stack(counts).reshape(2, 2).double()


def _fit_normalisation(modality: ModalityQuantizer, data: Modality, name: str) -> None:
    """Sets the mean vector and the root of the mean variance over the items present."""
    dim = data.embedding_NE.shape[1]
    total_E, squares, count = torch.zeros(dim, dtype=torch.float64), 0.0, 0
    for embedding_BE, present_B in zip(
        data.embedding_NE.split(CHUNK), data.present_N.split(CHUNK), strict=True
    ):
        kept_BE = embedding_BE[present_B].double().cpu()
        total_E += kept_BE.sum(0)
        squares += float(kept_BE.square().sum())
        count += len(kept_BE)
    mean_E = total_E / count
    variance = (squares / count - float(mean_E.square().sum())) / dim
    check(
        math.isfinite(variance) and variance > 0,
        f"{name}_embeddings: the {count} vectors have variance {variance}; "
        "they must be finite and must differ from each other",
    )
    modality.mean_E.copy_(mean_E)
    modality.scale.fill_(math.sqrt(variance))


def _check_sizes(catalogue: Catalogue, config: "Config") -> None:
    for name, data in zip(MODALITIES, catalogue, strict=True):
        count = int(data.present_N.sum())
        check(
            count >= config.codebook_size,
            f"{name}_embeddings: {count} of {len(data.present_N)} items have a vector, too few for "
            f"{config.codebook_size} codewords a level. Set quantizer_codebook_size to at most "
            f"{max(count // 4, 1)} (a quarter of the items).",
        )


class _Trainer:
    """The state that epochs share."""

    def __init__(self, catalogue: Catalogue, config: "Config", device: torch.device) -> None:
        spec = QuantizerSpec(
            text_dim=catalogue.text.embedding_NE.shape[1],
            image_dim=catalogue.image.embedding_NE.shape[1],
            latent_dim=config.latent_dim,
            projection=config.projection,
            hidden=config.hidden,
            levels=config.levels,
            codebook_size=config.codebook_size,
        )
        self.catalogue, self.config, self.device = catalogue, config, device
        self.generator = torch.Generator().manual_seed(config.seed)
        self.model = CrossModalQuantizer(spec, config.seed)
        for name, data in zip(MODALITIES, catalogue, strict=True):
            _fit_normalisation(getattr(self.model, name), data, name)
        self.model.to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )

    def update_codebooks(self, *, first: bool) -> None:
        """k-means in "refit" and at the start; else only the codewords no item uses move."""
        for name, data in zip(MODALITIES, self.catalogue, strict=True):
            modality: ModalityQuantizer = getattr(self.model, name)
            encoded = modality.encode(data.embedding_NE)
            latents_ND = encoded.latents_ND[data.present_N.to(self.device)]
            if first or self.config.codebook_update == "refit":
                codebooks.refit(modality.codebooks, latents_ND, self.generator)
                for codebook in modality.codebooks:
                    # Momentum gathered for codewords that are gone would push the new ones.
                    self.optimizer.state.pop(codebook, None)
            else:
                codebooks.reseed_dead(modality.codebooks, latents_ND)

    def epoch(self, number: int) -> dict[str, float]:
        """One pass over the items in a seeded order; the mean of every loss term."""
        weights = term_weights(self.config)
        items = len(self.catalogue.text.present_N)
        order_N = torch.randperm(items, generator=self.generator)
        names: list[str] = []
        steps: list[Tensor] = []
        anchors = torch.zeros(2, 2, dtype=torch.float64, device=self.device)
        # Batches of equal size: a last batch of a few items would hardly hold a positive.
        for rows_B in order_N.tensor_split(math.ceil(items / self.config.batch_size)):
            batch = Catalogue(*(data.take(rows_B, self.device) for data in self.catalogue))
            terms = loss_terms(self.model, batch, self.config)
            total = torch.stack([weights[term] * loss for term, loss in terms.items()]).sum()
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()
            names = list(terms)
            steps.append(torch.stack([loss.detach() for loss in terms.values()]))
            anchors += positive_share(batch)
        # Looked at once an epoch: reading a loss at every step would make a GPU wait.
        losses_ST = torch.stack(steps).double().cpu()
        _check_finite(losses_ST, names, number)
        shares = (anchors[:, 0] / anchors[:, 1].clamp(min=1)).tolist()
        names += [f"{name}_anchors_with_positive" for name in MODALITIES]
        return dict(zip(names, losses_ST.mean(0).tolist() + shares, strict=True))


def _check_finite(losses_ST: Tensor, names: list[str], epoch: int) -> None:
    bad_ST = ~losses_ST.isfinite()
    if bad_ST.any():
        step = int(bad_ST.any(1).nonzero()[0, 0])
        blamed = ", ".join(n for n, bad in zip(names, bad_ST[step].tolist(), strict=True) if bad)
        raise UserError(
            f"quantize: {blamed} stopped being finite in epoch {epoch}, step {step}. Lower "
            "quantizer_learning_rate, or look for extreme values in the embeddings."
        )


def train(
    catalogue: Catalogue,
    config: "Config",
    device: torch.device,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> Trained:
    """Trains from scratch; same catalogue, config and kind of device give the same model."""
    _check_sizes(catalogue, config)
    trainer = _Trainer(catalogue, config, device)
    trainer.update_codebooks(first=True)
    history: list[dict[str, Any]] = []
    for number in range(1, config.epochs + 1):
        history.append({"epoch": number, **trainer.epoch(number)})
        if number % config.refit_every == 0 or number == config.epochs:
            trainer.update_codebooks(first=False)
            history[-1]["codebooks_updated"] = True
        on_epoch(1)
    return Trained(trainer.model.eval(), history)
