"""Implements the training: steps, epochs, codebook updates, and the state of a checkpoint.

Shape suffixes: N items, B batch, D latent size, S steps, T loss terms.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from components.quantize import codebooks, quantizer_losses
from components.quantize.data import Catalogue, batches, fit_normalisation, items, log_duration
from components.quantize.objective import forward, loss_terms, other_labels, term_weights
from components.quantize.spec import Settings
from macrec.compute.precision import warn_if_slow
from macrec.core.errors import UserError
from macrec.core.processes import ALONE, Processes
from macrec.tokenizer.quantizer import ROWS, CrossModalQuantizer, QuantizerSpec
from macrec.tokenizer.residual_quantization import grid_codebooks

REFIT_ITEMS = 131_072
"""Sample size of k-means, or 256 items per codeword if that is more. A mean of 256 items is known
to a sixteenth of the spread, and k-means on a million items would take minutes each time."""


class Trainer:
    """The state that steps and epochs share and change.

    Args:
        catalogue: the modalities that get codes; the vectors may be on disk.
        config: settings with every size filled in.
        device: where the model is trained.
        processes: the processes that train together; each has the whole catalogue.
        compiled: whether the networks are compiled.
        state: a state to resume from, as `state` returned it.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        config: Settings,
        device: torch.device,
        *,
        processes: Processes = ALONE,
        compiled: bool = False,
        state: Any = None,
    ) -> None:
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
        warn_if_slow(config.precision, device.type)
        self.catalogue, self.config, self.device = catalogue, config, device
        self.processes = processes
        self.weights = term_weights(config, tuple(catalogue))
        self.anchored = [n for n in catalogue if any(f"{n}_contr" in term for term in self.weights)]
        self.generator = torch.Generator().manual_seed(config.seed)
        self.model = CrossModalQuantizer(spec, config.seed)
        self.heads = self._heads()
        self.model.to(device)
        self.heads.to(device)
        if compiled:
            for part in self.model.parts().values():
                part.encoder.compile()  # in place, so that the names of the weights stay the same
                part.decoder.compile()
        if state is None:
            with log_duration("normalisation"):
                for name, data in catalogue.items():
                    fit_normalisation(self.model.modality(name), data, name)
            with log_duration("first codebooks"):
                self.start_codebooks()
        if config.tokenizer == "fsq" or config.codebook_update == "ema":
            for codebook in self.codebooks:
                codebook.requires_grad_(False)
        batch_size = min(config.batch_size, items(catalogue))
        self.means = codebooks.MovingMeans(self.model, config.ema_decay, batch_size)
        self.parameters = [
            p for m in (self.model, self.heads) for p in m.parameters() if p.requires_grad
        ]
        self.optimizer = torch.optim.AdamW(
            self.parameters, config.learning_rate, weight_decay=config.weight_decay
        )
        self.history: list[dict[str, Any]] = []
        self.steps = 0
        """Steps of all epochs."""
        self.epoch_start = self.generator.get_state()
        self._begin_epoch()
        if state is not None:
            self._restore(state)

    def _begin_epoch(self) -> None:
        self.names: list[str] = []
        self.terms: list[Tensor] = []
        self.anchors: list[Tensor] = []

    def state(self) -> dict[str, Any]:
        """Return everything that changes, for a checkpoint after any step.

        Raises UserError if it is not finite, because it must not replace a good checkpoint.
        """
        if self.terms:
            losses_ST = torch.stack(self.terms).double().cpu()
            _check_finite(losses_ST, self.names, len(self.history) + 1)
        if not all(bool(p.isfinite().all()) for p in self.parameters):
            raise UserError(
                f"quantize: weights stopped being finite in step {self.steps}. Lower "
                "quantize.learning_rate, or look for extreme values in the embeddings."
            )
        return {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "means": {"counts": self.means.counts, "sums": self.means.sums},
            "generator": self.epoch_start,
            "history": self.history,
            "steps": self.steps,
            "names": self.names,
            "terms": torch.stack(self.terms) if self.terms else None,
            "anchors": torch.stack(self.anchors) if self.anchors else None,
        }

    def _restore(self, state: Any) -> None:
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, part in self.model.parts().items():
            for level in range(len(part.codebooks)):
                self.means.counts[name][level].copy_(state["means"]["counts"][name][level])
                self.means.sums[name][level].copy_(state["means"]["sums"][name][level])
        self.generator.set_state(state["generator"])
        self.history, self.steps = state["history"], state["steps"]
        if state["terms"] is not None:
            self.names = state["names"]
            self.terms = list(state["terms"].to(self.device))
            self.anchors = list(state["anchors"].to(self.device))

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
        """Set the codebooks before the first step."""
        config = self.config
        if config.tokenizer == "fsq":
            for part in self.model.parts().values():
                grids = grid_codebooks(config.fsq_levels, config.levels)
                for codebook, grid_MD in zip(part.codebooks, grids, strict=True):
                    codebook.data.copy_(grid_MD)
        elif config.codebook_init == "kmeans" or config.tokenizer == "rqkmeans":
            self._refit()

    def _refit(self) -> None:
        count, most = items(self.catalogue), max(REFIT_ITEMS, 256 * self.config.codebook_size)
        rows_R = None
        if count > most:
            rows_R = torch.randperm(count, generator=self.generator)[:most].sort().values
        codebooks.refit(self.model, *self.latents(rows_R), self.generator)
        self.processes.spread(codebook.data for codebook in self.codebooks)

    def latents(self, rows_R: Tensor | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the latents of the given or of all items and which rows are valid, by modality."""
        if rows_R is None:
            rows_R = torch.arange(items(self.catalogue))
        present = {
            n: data.present_N[rows_R.to(data.present_N.device)].to(self.device)
            for n, data in self.catalogue.items()
        }
        latents = {
            name: torch.zeros(len(rows_R), part.latent_dim, device=self.device)
            for name, part in self.model.parts().items()
        }
        for start in range(ROWS * self.processes.rank, len(rows_R), ROWS * self.processes.count):
            chunk = slice(start, start + ROWS)
            vectors = {
                name: data.embedding_NE[rows_R[chunk].to(data.embedding_NE.device)]
                for name, data in self.catalogue.items()
            }
            here = {name: present_R[chunk] for name, present_R in present.items()}
            for encoded in self.model.encode_chunks(vectors, here):
                for name, done in encoded.items():
                    latents[name][chunk] = done.latents_ND
        for latents_RD in latents.values():
            # each process contributes its own chunks, and zeros elsewhere
            self.processes.sum(latents_RD)
        return latents, present

    def update_codebooks(self) -> dict[str, float]:
        """Refit by k-means in "refit", else move unused codewords; return what was done."""
        if self.config.tokenizer == "fsq":
            return {}
        if self.config.codebook_update == "refit":
            self._refit()
            for codebook in self.codebooks:
                # Momentum of codewords that are gone would push the new ones.
                self.optimizer.state.pop(codebook, None)
            return {"codebooks_refitted": 1.0}
        if not self.config.reseed_dead:
            return {}
        moved = codebooks.reseed_dead(self.model, *self.latents())
        self.processes.spread(codebook.data for codebook in self.codebooks)
        self.means.reset()
        return {f"{name}_codewords_reseeded": float(count) for name, count in moved.items()}

    def step(self, batch: Catalogue) -> tuple[dict[str, Tensor], Tensor]:
        """Run one update; return the loss terms and the anchor counts by modality.

        The counts are those of anchors with a positive, and of all anchors.
        """
        passes = forward(self.model, batch, self.config, processes=self.processes)
        pairs = {
            name: quantizer_losses.find_pairs(
                other_labels(batch, name), self.config.contrastive_positives
            )
            for name in self.anchored
        }
        terms = loss_terms(self.model, self.heads, passes, pairs, self.config, self.processes)
        total = torch.stack([self.weights[term] * loss for term, loss in terms.items()]).sum()
        self.optimizer.zero_grad()
        total.backward()
        terms = self._sum_over_processes(terms)
        self.optimizer.step()
        if self.config.codebook_update == "ema" and self.config.tokenizer == "rqvae":
            quantized = {name: done.quantized for name, done in passes.items()}
            self.means.update(quantized, {name: data.present_N for name, data in batch.items()})
        counts = [found.count_anchors() for found in pairs.values()]
        return terms, torch.stack(counts) if counts else torch.zeros(0, 2)

    def _sum_over_processes(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum gradients and loss terms over the processes, so that they are those of the batch."""
        count = self.processes.count
        if count == 1:
            return terms
        # All processes compute what follows the latents, on the whole batch.
        for whole in (*self.codebooks, *self.heads.parameters()):
            if whole.grad is not None:
                whole.grad /= count
        parts = [
            loss.detach() / (1 if term.endswith("_reconstruction") else count)
            for term, loss in terms.items()
        ]
        joined_T = torch.stack(parts)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.processes.sum_all([*gradients, joined_T])
        return dict(zip(terms, joined_T, strict=True))

    def epoch(self, after_step: Callable[[], None] = lambda: None) -> None:
        """Run one pass over the items in seeded order, or the rest of it; append to the history."""
        config, count, number = self.config, items(self.catalogue), len(self.history) + 1
        self.epoch_start = self.generator.get_state()
        order_N = torch.randperm(count, generator=self.generator)
        # Batches have equal size, because a last batch of a few items would hardly contain a
        # positive.
        rows = order_N.tensor_split(math.ceil(count / config.batch_size))[len(self.terms) :]
        with log_duration(f"steps of epoch {number}"):
            for batch in batches(self.catalogue, rows, self.device, self.processes.share):
                terms, anchors = self.step(batch)
                self.names = list(terms)
                self.terms.append(torch.stack([loss.detach() for loss in terms.values()]))
                self.anchors.append(anchors)
                self.steps += 1
                after_step()
        # The losses are read once per epoch, because reading one at every step would make a GPU
        # wait.
        losses_ST = torch.stack(self.terms).double().cpu()
        _check_finite(losses_ST, self.names, number)
        counted = torch.stack(self.anchors).double().sum(0).cpu()
        names = [*self.names, *(f"{name}_anchors_with_positive" for name in self.anchored)]
        found = (counted[:, 0] / counted[:, 1].clamp(min=1)).tolist()
        figures = dict(zip(names, losses_ST.mean(0).tolist() + found, strict=True))
        self.history.append({"epoch": number, **figures})
        if number % config.refit_every == 0 or number == config.epochs:
            with log_duration("new codebooks"):
                self.history[-1] |= self.update_codebooks()
        self._begin_epoch()


def _check_finite(losses_ST: Tensor, names: list[str], epoch: int) -> None:
    bad_ST = ~losses_ST.isfinite()
    if bad_ST.any():
        step = int(bad_ST.any(1).nonzero()[0, 0])
        blamed = ", ".join(n for n, bad in zip(names, bad_ST[step].tolist(), strict=True) if bad)
        raise UserError(
            f"quantize: {blamed} stopped being finite in epoch {epoch}, step {step}. Lower "
            "quantize.learning_rate, or look for extreme values in the embeddings."
        )
