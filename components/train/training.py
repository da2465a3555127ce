"""The training loop: steps, epochs, validation, early stopping.

`State` holds what changes from step to step. Batches are drawn from (seed, epoch) and item pairs
from (seed, step), so with torch's generator (dropout) it is all that a resumed run would need.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from components.train.batches import epoch_batches, make_batch, pair_batch
from components.train.losses import batch_loss, implicit_loss, mean_pooled
from components.train.rows import TASKS, TrainingData
from components.train.schedule import Schedule, decay_epochs
from macrec.errors import UserError
from macrec.progress import Progress, log
from macrec.runtime import choose_device

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

    from components.train.main import Config

CurveRow = dict[str, Any]
EPOCH_STREAM, PAIR_STREAM = 1, 2  # keeps the two uses of the seed apart


class Trained(NamedTuple):
    """Result of a training; the model holds the best weights."""

    curve: list[CurveRow]
    best_ndcg: float
    best_epoch: int
    epochs: int
    steps: int
    rows: int
    """Rows trained on, every epoch counted."""
    seconds: float
    """Time of the steps alone, without validation."""
    padding_share: float

    def metrics(self) -> dict[str, float]:
        """The figures worth comparing."""
        last_losses = {f"loss_{task}": loss for task, loss in self.curve[-1]["losses"].items()}
        return last_losses | {
            "validation_ndcg_at_10": self.best_ndcg,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "steps": self.steps,
            "rows_per_second": self.rows / max(self.seconds, 1e-9),
            "padding_share": self.padding_share,
        }


@dataclass
class State:
    """What changes while training."""

    model: "T5ForConditionalGeneration"
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    step: int = 0
    epoch: int = 0
    best_ndcg: float = -1.0
    best_epoch: int = 0
    stale: int = 0
    """Validations since the best one."""
    best: dict[str, Any] = field(default_factory=dict[str, Any])
    curve: list[CurveRow] = field(default_factory=list[CurveRow])
    seconds: float = 0.0
    rows: int = 0
    tokens: int = 0
    """Source tokens of the rows."""
    padded_tokens: int = 0
    """Source tokens with the padding."""

    def snapshot(self) -> dict[str, Any]:
        """A copy of the weights and of the optimizer's moments."""
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy(parts)

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Back to the weights and moments of a snapshot."""
        self.model.load_state_dict(snapshot["model"])
        self.optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))


class CurveSums:
    """Sums of an epoch's losses, kept on the device and read once."""

    def __init__(self, device: torch.device) -> None:
        self.sums_T, self.tokens_T = torch.zeros(2, len(TASKS), device=device)
        self.implicit, self.pair_steps = torch.zeros((), device=device), 0

    def losses(self) -> dict[str, float]:
        """Mean cross entropy per target token by task; the implicit loss per step, if any."""
        named = zip(TASKS, self.sums_T.tolist(), self.tokens_T.tolist(), strict=True)
        losses = {task: total / tokens for task, total, tokens in named if tokens}
        if not self.pair_steps:
            return losses
        return losses | {"implicit": float(self.implicit) / self.pair_steps}


class Trainer:
    """Trains a model on data; `score` measures it (validation NDCG@10, higher is better)."""

    def __init__(
        self,
        model: "T5ForConditionalGeneration",
        data: TrainingData,
        config: "Config",
        score: Callable[["T5ForConditionalGeneration"], float],
        device: torch.device,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert data.sequence_rows is not None
        self.data, self.config, self.score, self.device = data, config, score, device
        self.rows, self.clock = data.sequence_rows, clock
        self.lengths_R = data.lengths(self.rows)
        self.steps_per_epoch = math.ceil(len(self.rows) / config.batch_size)
        schedule = Schedule(config.learning_rate, config.warmup_steps)
        self.state = State(model, _optimizer(model, config), schedule)

    def train(self) -> Trained:
        """Trains until validation stops improving, decays the rate to zero, restores the best.

        Raises UserError when the loss is not finite; the model then holds the weights before it.
        """
        state, config = self.state, self.config
        self._epochs("train", config.epochs)
        extra = decay_epochs(config.decay, state.best_epoch)
        if extra:
            log.info("train: best epoch %d, decaying for %d epochs", state.best_epoch, extra)
            state.restore(state.best)
            state.schedule.decay_start = state.step
            state.schedule.decay_steps = extra * self.steps_per_epoch
            self._epochs("train, decay", extra)
        state.model.load_state_dict(state.best["model"])
        return Trained(
            state.curve,
            state.best_ndcg,
            state.best_epoch,
            state.epoch,
            state.step,
            state.rows,
            state.seconds,
            1 - state.tokens / state.padded_tokens,
        )

    def _epochs(self, what: str, epochs: int) -> None:
        state, config = self.state, self.config
        may_stop, state.stale = state.schedule.decay_start is None, 0
        with Progress(what, epochs * len(self.rows), "rows") as progress:
            for done in range(1, epochs + 1):
                losses = self._epoch(progress)
                due = done % config.validate_every == 0 or done == epochs
                self._end_epoch(losses, self._validate() if due else None)
                if may_stop and state.stale >= config.patience:
                    return

    def _epoch(self, progress: Progress) -> dict[str, float]:
        state, config = self.state, self.config
        state.model.train()
        sums, started = CurveSums(self.device), self.clock()
        order = np.random.default_rng([config.seed, EPOCH_STREAM, state.epoch])
        for index_B in epoch_batches(self.lengths_R, config.batch_size, order):
            loss = self._step(index_B, sums)
            state.rows += len(index_B)
            state.tokens += int(self.lengths_R[index_B].sum())
            state.padded_tokens += len(index_B) * int(self.lengths_R[index_B].max())
            progress.advance(len(index_B), f"epoch {state.epoch + 1}, loss {loss:.3f}")
        state.epoch += 1
        state.seconds += self.clock() - started
        return sums.losses()

    def _step(self, index_B: np.ndarray, sums: CurveSums) -> float:
        state, config = self.state, self.config
        rate = state.schedule.rate(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cuda", torch.bfloat16, enabled=self._low_precision()):
            loss = self._loss(index_B, sums)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm)
        value, norm_value = torch.stack([loss.detach(), norm]).tolist()  # one wait for the device
        if not (math.isfinite(value) and math.isfinite(norm_value)):
            raise UserError(
                f"train: step {state.step} (epoch {state.epoch + 1}): loss {value}, gradient norm "
                f"{norm_value}. The step was not taken. Lower learning_rate ({rate:g} here)."
            )
        state.optimizer.step()
        state.step += 1
        return value

    def _loss(self, index_B: np.ndarray, sums: CurveSums) -> Tensor:
        config, data, model = self.config, self.data, self.state.model
        batch = make_batch(data, self.rows, index_B)
        sequences = batch_loss(model, batch, config.label_smoothing, self.device)
        sums.sums_T += sequences.task_sum_T
        sums.tokens_T += sequences.task_tokens_T
        if data.item_rows is None:
            return sequences.loss
        draw = np.random.default_rng([config.seed, PAIR_STREAM, self.state.step])
        pairs = pair_batch(data, config.item_pairs, draw)
        items = batch_loss(model, pairs, config.label_smoothing, self.device)
        sums.sums_T += items.task_sum_T
        sums.tokens_T += items.task_tokens_T
        text_PD, image_PD = mean_pooled(items.encoded_BSD, items.mask_BS).chunk(2)
        implicit = implicit_loss(text_PD, image_PD, config.implicit_temperature)
        sums.implicit += implicit.detach()
        sums.pair_steps += 1
        weighted = config.item_weight * items.loss + config.implicit_weight * implicit
        return sequences.loss + weighted

    def _low_precision(self) -> bool:
        return self.device.type == "cuda" and self.config.precision == "bfloat16"

    def _validate(self) -> float:
        self.state.model.eval()
        with torch.no_grad():
            return self.score(self.state.model)

    def _end_epoch(self, losses: dict[str, float], ndcg: float | None) -> None:
        state = self.state
        state.curve.append(
            {
                "step": state.step,
                "epoch": state.epoch,
                "learning_rate": state.schedule.rate(state.step - 1),
                "losses": losses,
                "validation_ndcg_at_10": ndcg,
            }
        )
        if ndcg is None:
            return
        shown = ", ".join(f"{task} {loss:.3f}" for task, loss in losses.items())
        speed = state.rows / max(state.seconds, 1e-9)
        log.info("train: epoch %d, NDCG@10 %.4f, %s, %.0f rows/s", state.epoch, ndcg, shown, speed)
        if ndcg > state.best_ndcg:
            state.best_ndcg, state.best_epoch, state.stale = ndcg, state.epoch, 0
            state.best = state.snapshot()
        else:
            state.stale += 1


def prepare(seed: int, device: str, threads: int) -> torch.device:
    """Seeds torch (weights and dropout), sets its threads (0 keeps them), resolves "auto"."""
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
    return choose_device(device)


def _optimizer(model: "T5ForConditionalGeneration", config: "Config") -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},  # norm scales
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
