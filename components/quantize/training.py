"""Trains the quantizers together: the losses of a batch, the epochs, the checks on the way.

Shape suffixes: N items, B batch, D latent size, H head size, S steps, T loss terms.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.quantize import codebooks, losses
from components.quantize.config import Config
from components.quantize.data import Catalogue, Modality, fit_normalisation, items
from macrec.errors import UserError, check
from macrec.quantization import (
    Quantized,
    grid_codebooks,
    nearest,
    rotated,
    sinkhorn_codes,
    straight_through,
)
from macrec.quantizer import CrossModalQuantizer, QuantizerSpec

ESTIMATORS = {"straight_through": straight_through, "rotation": rotated}


class Trained(NamedTuple):
    """The model with one record of figures per epoch, losses as means over the steps."""

    model: CrossModalQuantizer
    history: list[dict[str, Any]]


class Pass(NamedTuple):
    """One modality of a batch on its way through the model."""

    batch: Modality
    normalized_BE: Tensor
    latent_BD: Tensor
    quantized: Quantized


def term_weights(config: Config, modalities: tuple[str, ...]) -> dict[str, float]:
    """The factor of every loss term in the total; a term of weight 0 is not computed."""
    weights = {f"{name}_reconstruction": 1.0 for name in modalities}
    if config.tokenizer == "rqvae":  # the grid of fsq has nothing to learn and nothing to commit to
        weights |= {f"{name}_rq": config.rq_weight for name in modalities}
    if len(modalities) == 2:
        for level, weight in enumerate(config.per_level(config.contrastive_weights)):
            sides = modalities if config.contrastive_side == "both" else (config.contrastive_side,)
            weights |= {f"{name}_contrastive_{level}": weight for name in sides}
        weights["align"] = config.align_weight
    return {term: weight for term, weight in weights.items() if weight > 0}


class Codes:
    """Picks the codes of a training batch: balanced where a level has an epsilon, else nearest."""

    def __init__(self, config: Config) -> None:
        self.epsilons = config.per_level(config.sinkhorn_epsilons)
        self.iterations = config.sinkhorn_iterations

    def __call__(self, level: int, distance_BM: Tensor) -> Tensor:
        """Codes [B]; see `macrec.quantization.Choose`."""
        if epsilon := self.epsilons[level]:
            return sinkhorn_codes(distance_BM, epsilon, self.iterations)
        return nearest(level, distance_BM)


def forward(
    model: CrossModalQuantizer, batch: Catalogue, config: Config, *, training: bool = True
) -> dict[str, Pass]:
    """Encodes and quantizes the raw vectors of a batch."""
    normalized: dict[str, Tensor] = {}
    latents: dict[str, Tensor] = {}
    for name, part in model.parts().items():
        # A missing row holds nothing: make it the mean vector, whatever bytes stand there.
        present_B1 = batch[name].present_N[:, None]
        normalized[name] = part.normalize(batch[name].embedding_NE).where(present_B1, 0.0)
        latents[name] = part.encoder(normalized[name])
    quantized = model.quantize(
        latents,
        {name: data.present_N for name, data in batch.items()},
        Codes(config) if training else nearest,
        live=config.residual_gradient == "live",
    )
    return {n: Pass(batch[n], normalized[n], latents[n], quantized[n]) for n in latents}


def other_labels(batch: Catalogue, name: str) -> Tensor:
    """The labels that decide an anchor's positives: the other modality's, where both are there."""
    (other,) = (data for key, data in batch.items() if key != name)
    return torch.where(batch[name].present_N, other.label_N, -1)


def loss_terms(
    model: CrossModalQuantizer,
    heads: nn.ModuleDict,
    passes: Mapping[str, Pass],
    pairs: Mapping[str, losses.Pairs],
    config: Config,
) -> dict[str, Tensor]:
    """Every live loss term of a batch, unweighted; the names are those of `term_weights`."""
    weights = term_weights(config, tuple(passes))
    terms: dict[str, Tensor] = {}
    estimate = ESTIMATORS[config.gradient_estimator]
    for name, done in passes.items():
        present_B, quantized = done.batch.present_N, done.quantized
        zhat_BD = estimate(done.latent_BD, quantized.codeword_sum_BD)
        terms[f"{name}_reconstruction"] = losses.squared_error(
            model.modality(name).decoder(zhat_BD),
            done.normalized_BE,
            present_B,
            config.squared_error,
        )
        if (term := f"{name}_rq") in weights:
            terms[term] = losses.rq_loss(
                quantized, present_B, config.commitment, config.squared_error
            )
        for level, residual_BD in enumerate(quantized.residuals):
            if (term := f"{name}_contrastive_{level}") in weights:
                terms[term] = losses.contrastive_loss(residual_BD, pairs[name], config.temperature)
    if "align" in weights:
        levels = config.align_levels or config.levels
        views = [
            losses.align_view(done.latent_BD, done.quantized, config.align_gradient, levels)
            for done in passes.values()
        ]
        if heads:
            views = [heads[name](view) for name, view in zip(passes, views, strict=True)]
        both_B = torch.stack([done.batch.present_N for done in passes.values()]).all(0)
        terms["align"] = losses.align_loss(views[0], views[1], both_B, config.temperature)
    return terms


def _check_counts(catalogue: Catalogue, config: Config) -> None:
    for name, data in catalogue.items():
        count = int(data.present_N.sum())
        check(
            count >= config.codebook_size or config.tokenizer == "fsq",
            f"{name}_embeddings: {count} of {len(data.present_N)} items have a vector, too few for "
            f"{config.codebook_size} codewords a level. Set quantizer_codebook_size to at most "
            f"{max(count // 4, 1)} (a quarter of the items), or to 0.",
        )


class _Trainer:
    """The state that epochs share."""

    def __init__(self, catalogue: Catalogue, config: Config, device: torch.device) -> None:
        dims = {name: data.dim for name, data in catalogue.items()}
        spec = QuantizerSpec(
            text_dim=dims.get("text", 0),
            image_dim=dims.get("image", 0),
            tokenizer=config.tokenizer,
            latent_dim=config.latent_dim,
            projection=config.projection,
            hidden=config.hidden,
            levels=config.levels,
            codebook_size=config.codebook_size,
            shared_levels=config.shared_levels if len(dims) == 2 else 0,
        )
        self.catalogue, self.config, self.device = catalogue, config, device
        self.weights = term_weights(config, tuple(catalogue))
        self.anchored = [n for n in catalogue if any(f"{n}_contr" in term for term in self.weights)]
        self.generator = torch.Generator().manual_seed(config.seed)
        self.model = CrossModalQuantizer(spec, config.seed)
        self.heads = self._heads()
        for name, data in catalogue.items():
            fit_normalisation(self.model.modality(name), data, name)
        self.model.to(device)
        self.heads.to(device)
        self.start_codebooks()
        batch_size = min(config.batch_size, items(catalogue))
        self.means = codebooks.MovingMeans(self.model, config.ema_decay, batch_size)
        self.optimizer = torch.optim.AdamW(
            [p for m in (self.model, self.heads) for p in m.parameters() if p.requires_grad],
            config.learning_rate,
            weight_decay=config.weight_decay,
        )

    def _heads(self) -> nn.ModuleDict:
        if not (self.config.align_head and "align" in self.weights):
            return nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed + 1)
            size = self.config.latent_dim, self.config.align_head
            return nn.ModuleDict({name: nn.Linear(*size) for name in self.catalogue})

    @property
    def codebooks(self) -> list[nn.Parameter]:
        """The codebooks of all modalities and levels."""
        return [book for part in self.model.parts().values() for book in part.codebooks]

    def start_codebooks(self) -> None:
        """The codebooks before the first step, and whether a gradient may move them."""
        config = self.config
        if config.tokenizer == "fsq":
            for part in self.model.parts().values():
                grids = grid_codebooks(config.fsq_levels, config.levels)
                for codebook, grid_MD in zip(part.codebooks, grids, strict=True):
                    codebook.data.copy_(grid_MD)
        elif config.codebook_init == "kmeans" or config.tokenizer == "rqkmeans":
            codebooks.refit(self.model, *self.latents(), self.generator)
        if config.tokenizer == "fsq" or config.codebook_update == "ema":
            for codebook in self.codebooks:
                codebook.requires_grad_(False)

    def latents(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The latents of all items and which of them mean anything, by modality."""
        present = {name: data.present_N for name, data in self.catalogue.items()}
        vectors = {name: data.embedding_NE for name, data in self.catalogue.items()}
        encoded = self.model.encode(vectors, present)
        latents = {name: done.latents_ND for name, done in encoded.items()}
        return latents, {name: p.to(self.device) for name, p in present.items()}

    def update_codebooks(self) -> dict[str, float]:
        """k-means in "refit"; else the codewords no item uses move. Returns what happened."""
        if self.config.tokenizer == "fsq":
            return {}
        if self.config.codebook_update == "refit":
            codebooks.refit(self.model, *self.latents(), self.generator)
            for codebook in self.codebooks:
                # Momentum gathered for codewords that are gone would push the new ones.
                self.optimizer.state.pop(codebook, None)
            return {"codebooks_refitted": 1.0}
        if not self.config.reseed_dead:
            return {}
        moved = codebooks.reseed_dead(self.model, *self.latents())
        self.means.reset()
        return {f"{name}_codewords_reseeded": float(count) for name, count in moved.items()}

    def step(self, batch: Catalogue) -> tuple[dict[str, Tensor], Tensor]:
        """One update; the loss terms, and by modality the anchors with a positive and all."""
        passes = forward(self.model, batch, self.config)
        pairs = {
            name: losses.find_pairs(other_labels(batch, name), self.config.contrastive_positives)
            for name in self.anchored
        }
        terms = loss_terms(self.model, self.heads, passes, pairs, self.config)
        total = torch.stack([self.weights[term] * loss for term, loss in terms.items()]).sum()
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        if self.config.codebook_update == "ema" and self.config.tokenizer == "rqvae":
            quantized = {name: done.quantized for name, done in passes.items()}
            self.means.update(quantized, {name: data.present_N for name, data in batch.items()})
        counts = [found.count_anchors() for found in pairs.values()]
        return terms, torch.stack(counts) if counts else torch.zeros(0, 2)

    def epoch(self, number: int) -> dict[str, float]:
        """One pass over the items in a seeded order; the mean of every loss term."""
        count = items(self.catalogue)
        order_N = torch.randperm(count, generator=self.generator)
        names: list[str] = []
        steps: list[Tensor] = []
        anchors: list[Tensor] = []
        # Batches of equal size: a last batch of a few items would hardly hold a positive.
        for rows_B in order_N.tensor_split(math.ceil(count / self.config.batch_size)):
            batch = {name: data.take(rows_B, self.device) for name, data in self.catalogue.items()}
            terms, shares = self.step(batch)
            names = list(terms)
            steps.append(torch.stack([loss.detach() for loss in terms.values()]))
            anchors.append(shares)
        # Looked at once an epoch: reading a loss at every step would make a GPU wait.
        losses_ST = torch.stack(steps).double().cpu()
        _check_finite(losses_ST, names, number)
        counted = torch.stack(anchors).double().sum(0).cpu()
        names += [f"{name}_anchors_with_positive" for name in self.anchored]
        found = (counted[:, 0] / counted[:, 1].clamp(min=1)).tolist()
        return dict(zip(names, losses_ST.mean(0).tolist() + found, strict=True))


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
    config: Config,
    device: torch.device,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> Trained:
    """Trains from scratch; same catalogue, config and kind of device give the same model.

    Args:
        catalogue: the modalities that get codes.
        config: with every size filled in (`components.quantize.sizes`).
        device: where the model is trained; the vectors may lie elsewhere.
        on_epoch: told of every epoch done.
    """
    _check_counts(catalogue, config)
    trainer = _Trainer(catalogue, config, device)
    history: list[dict[str, Any]] = []
    for number in range(1, 1 + (config.epochs if config.tokenizer != "rqkmeans" else 0)):
        history.append({"epoch": number, **trainer.epoch(number)})
        if number % config.refit_every == 0 or number == config.epochs:
            history[-1] |= trainer.update_codebooks()
        on_epoch(1)
    return Trained(trainer.model.eval(), history)
