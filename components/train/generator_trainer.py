"""Implements the training steps: how a batch updates the weights, in one or several processes.

Shapes: B rows of a batch, T tasks, P item pairs, D width, R rows, F figures.
"""

import math
import time
from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from components.train.batches import Batch, epoch_batches, make_batch, pair_batch
from components.train.generator_losses import BatchLoss, batch_loss, implicit_loss, mean_pooled
from components.train.history_dropout import draw_dropped, thinned_lengths, thinned_sources
from components.train.learning_rate import Schedule
from components.train.rows import TASKS, TrainingData
from components.train.spec import Settings
from components.train.state import CurveSums, State, copy_weights
from components.train.streams import Stream, generator
from macrec.compute.precision import low_precision, warn_if_slow
from macrec.core.errors import UserError, check
from macrec.core.processes import ALONE, Processes
from macrec.generator.t5 import Dropout, Weights, read_weights


class Trainer:
    """The state of a training and the steps that change it.

    Args:
        model: on its device; every process has the same weights.
        data: the whole training data, in every process.
        config: settings of the training.
        device: where the model is.
        processes: the processes that train together; they share out each batch.
        clock: returns seconds.
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        data: TrainingData,
        config: Settings,
        device: torch.device,
        *,
        processes: Processes = ALONE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert data.sequence_rows is not None
        self.data, self.config, self.device = data, config, device
        self.processes, self.clock = processes, clock
        self.rows = data.sequence_rows
        pairs = min(config.item_pairs, len(data.paired_items_P))
        check(
            data.item_rows is None or pairs >= processes.count,
            f"train: {pairs} item pairs cannot be shared by {processes.count} processes. "
            "Raise item_pairs, or start fewer.",
        )
        self.targets = int(self.rows.count_R.sum())
        """(source, item to predict) pairs of an epoch."""
        # if a source has several targets, a step has the same number of pairs, up to chance
        self.batch_rows = max(1, round(config.batch_size * len(self.rows) / self.targets))
        self.steps_per_epoch = math.ceil(len(self.rows) / self.batch_rows)
        self.state = State(
            model,
            _optimizer(model, config),
            Schedule(config.learning_rate, config.warmup_steps),
            CurveSums(device),
            phase_epochs=config.epochs,
        )
        if config.average_decay:
            self.state.average = copy_weights(self.state.weights())
        warn_if_slow(config.precision, device.type)
        self.dtype = torch.bfloat16 if low_precision(config.precision, device.type) else None
        self.dropout = Dropout(model.config.dropout_rate)
        self.dropped_RH: np.ndarray | None = None
        self.lengths_R = data.lengths(self.rows)

    def epoch(self, after_step: Callable[[int, float], None]) -> dict[str, float]:
        """Run one epoch, or the rest of it, and return its mean losses.

        Args:
            after_step: is called with the rows and the loss of every step.
        """
        state, config = self.state, self.config
        state.model.train()
        started = self.clock()
        self._thin_histories()
        order = generator(config.seed, Stream.ORDER, state.epoch)
        batches = epoch_batches(self.lengths_R, self.batch_rows, order)
        for index_B in islice(batches, state.batches, None):
            loss, targets = self.step(index_B), int(self.rows.count_R[index_B].sum())
            state.batches += 1
            state.rows += targets
            state.tokens += int(self.lengths_R[index_B].sum())
            state.padded_tokens += len(index_B) * int(self.lengths_R[index_B].max())
            state.seconds += self.clock() - started
            after_step(targets, loss)
            started = self.clock()
        losses = state.sums.losses()
        state.sums, state.batches = CurveSums(self.device), 0
        state.epoch += 1
        return losses

    def _thin_histories(self) -> None:
        share, place = self.config.history_dropout, self.state.epoch
        if share:
            draw = generator(self.config.seed, Stream.HISTORY, place)
            self.dropped_RH = draw_dropped(self.rows, share, draw)
            self.lengths_R = thinned_lengths(self.data, self.rows, self.dropped_RH)

    def step(self, index_B: np.ndarray) -> float:
        """Run one update from the rows `index_B`, the batch of all processes; return its loss.

        Raises UserError if the loss is not finite; the model then holds the weights before the
        step.
        """
        state, config, processes = self.state, self.config, self.processes
        rate = state.schedule.rate(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self._seed_dropout()
        loss, figures_F = self._loss(index_B, read_weights(state.model, self.dtype))
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = list(state.model.parameters())
        processes.sum_all([*(p.grad for p in parameters if p.grad is not None), figures_F])
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        # a single synchronisation with the device
        value, norm_value = torch.stack([figures_F[0], norm]).tolist()
        if not (math.isfinite(value) and math.isfinite(norm_value)):
            raise UserError(
                f"train: step {state.step} (epoch {state.epoch + 1}): loss {value}, gradient norm "
                f"{norm_value}. The step was not taken. Lower learning_rate ({rate:g} here)."
            )
        state.optimizer.step()
        self._count(figures_F)
        state.step += 1
        state.move_average(config.average_decay)
        return value

    def _seed_dropout(self) -> None:
        """Seed dropout so that masks differ between steps and between processes."""
        place = self.state.step, self.processes.rank
        seed = int(generator(self.config.seed, Stream.DROPOUT, *place).integers(2**63))
        # torch.manual_seed would initialise an unused GPU, which costs as much as a small step.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _count(self, figures_F: Tensor) -> None:
        sums = self.state.sums
        sums.implicit += figures_F[1]
        sums.sums_T += figures_F[2 : 2 + len(TASKS)]
        sums.tokens_T += figures_F[2 + len(TASKS) :]
        sums.pair_steps += self.data.item_rows is not None

    def _loss(self, index_B: np.ndarray, weights: Weights) -> tuple[Tensor, Tensor]:
        """Return this process's part of the loss, and figures that are summed over the processes.

        The parts of all processes, their gradients and their figures add up to those of the whole
        batch: sums over own tokens are divided by the tokens of all. The figures [F] are the loss,
        the implicit loss, and by task the summed cross entropy and the tokens.
        """
        config, data, count = self.config, self.data, self.processes.count
        sequences, weight = self._sequences(index_B, weights)
        tokens = data.target_tokens(self.rows, index_B)
        loss = weight * sequences.loss_sum / tokens
        task_sums = [weight * sequences.task_sum_T, weight * sequences.task_tokens_T]
        value, implicit = loss.detach(), torch.zeros((), device=self.device)
        if data.item_rows is not None:
            draw = generator(config.seed, Stream.PAIRS, self.state.step)
            pairs = pair_batch(data, config.item_pairs, draw)
            items = self._batch_loss(self._own_pairs(pairs), weights)
            item_tokens = int((pairs.labels_BGL >= 0).sum())
            explicit = config.item_weight * items.loss_sum / max(item_tokens, 1)
            aligned = self._implicit(items, len(pairs.source_BS) // 2)
            implicit = aligned.detach() / count  # each process computes the whole of it
            loss = loss + explicit + config.implicit_weight * aligned
            value = value + explicit.detach() + config.implicit_weight * implicit
            task_sums[0] = task_sums[0] + items.task_sum_T
            task_sums[1] = task_sums[1] + items.task_tokens_T
        return loss, torch.cat([torch.stack([value, implicit]), *task_sums])

    def _batch_loss(self, batch: Batch, weights: Weights) -> BatchLoss:
        smoothing = self.config.label_smoothing
        return batch_loss(weights, batch, smoothing, self.device, self.dropout)

    def _sequences(self, index_B: np.ndarray, weights: Weights) -> tuple[BatchLoss, float]:
        """Return the loss of this process's rows and its weight.

        The weight is 0 if there are too few rows for all processes.
        """
        # Rows are sorted by length; a strided share per process makes all shares about equally
        # long.
        own_B = index_B[self.processes.rank :: self.processes.count]
        weight = float(len(own_B) > 0)
        own_B = own_B if len(own_B) else index_B[:1]
        batch = make_batch(self.data, self.rows, own_B)
        if self.dropped_RH is not None:
            first_B, last_B = self.rows.first_R[own_B], self.rows.last_R[own_B]
            dropped_BH = self.dropped_RH[own_B]
            source_BS = thinned_sources(self.data.stream, first_B, last_B, dropped_BH)
            batch = batch._replace(source_BS=source_BS)
        return self._batch_loss(batch, weights), weight

    def _own_pairs(self, pairs: Batch) -> Batch:
        """Return this process's item pairs."""
        half = len(pairs.source_BS) // 2
        own = np.arange(half)[self.processes.share(half)]
        return Batch(*(array[np.concatenate([own, half + own])] for array in pairs[:4]))

    def _implicit(self, items: BatchLoss, pairs: int) -> Tensor:
        """Return the implicit alignment loss over the pairs of all processes."""
        pooled = mean_pooled(items.encoded_BSD, items.mask_BS).chunk(2)
        text_PD, image_PD = (self.processes.join_rows(own_BD, pairs) for own_BD in pooled)
        return implicit_loss(text_PD, image_PD, self.config.implicit_temperature)


def _optimizer(model: T5ForConditionalGeneration, config: Settings) -> torch.optim.Optimizer:
    embeddings = model.shared.weight
    matrices = [p for p in model.parameters() if p.ndim > 1 and p is not embeddings]
    scales = [p for p in model.parameters() if p.ndim == 1]  # of the normalisation layers
    decay, factor = config.weight_decay, config.embedding_rate
    groups = [
        {"params": [embeddings], "weight_decay": decay, "factor": factor},
        {"params": matrices, "weight_decay": decay, "factor": 1.0},
        {"params": scales, "weight_decay": 0.0, "factor": 1.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
