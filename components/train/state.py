"""Defines what changes during training, and how a checkpoint stores it.

Random numbers are not part of it; see `streams`.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import T5ForConditionalGeneration

from components.train.learning_rate import Schedule
from components.train.rows import TASKS

CurveRow = dict[str, Any]
Weights = dict[str, Tensor]

NUMBERS = (
    "step",
    "epoch",
    "batches",
    "phase_start",
    "phase_epochs",
    "best_ndcg",
    "best_epoch",
    "stale",
    "curve",
    "seconds",
    "rows",
    "tokens",
    "padded_tokens",
)


class CurveSums:
    """Sums of an epoch's losses, kept on the device and read once."""

    def __init__(self, device: torch.device) -> None:
        # In float64, because an epoch may have more tokens than float32 can count.
        self.sums_T, self.tokens_T = torch.zeros(2, len(TASKS), device=device).double()
        self.implicit, self.pair_steps = torch.zeros((), device=device).double(), 0

    def losses(self) -> dict[str, float]:
        """Return mean losses: cross entropy per target token by task, implicit loss per step."""
        named = zip(TASKS, self.sums_T.tolist(), self.tokens_T.tolist(), strict=True)
        losses = {task: total / tokens for task, total, tokens in named if tokens}
        if not self.pair_steps:
            return losses
        return losses | {"implicit": float(self.implicit) / self.pair_steps}


@dataclass
class State:
    """Everything that changes during training."""

    model: T5ForConditionalGeneration
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    sums: CurveSums
    phase_epochs: int
    """Epochs of the phase: the maximum at the constant rate, the exact number of the decay."""
    phase_start: int = 0
    """Epochs before the phase."""
    average: Weights | None = None
    """Moving average of the weights, or None."""
    step: int = 0
    epoch: int = 0
    """Number of completed epochs."""
    batches: int = 0
    """Steps completed in the current epoch."""
    best_ndcg: float = -1.0
    best_epoch: int = 0
    stale: int = 0
    """Validations since the best one, within the phase."""
    best: Weights = field(default_factory=Weights)
    """The weights with the best validation."""
    origin: dict[str, Any] | None = None
    """Where the decay will start: the optimizer state, and the weights if `best` is an average."""
    curve: list[CurveRow] = field(default_factory=list[CurveRow])
    seconds: float = 0.0
    rows: int = 0
    tokens: int = 0
    """Source tokens of the rows."""
    padded_tokens: int = 0
    """Source tokens with padding."""

    @property
    def decaying(self) -> bool:
        """Whether the final decay has begun."""
        return self.schedule.decay_start is not None

    def weights(self) -> Weights:
        """Return the weights themselves; shared weights occur once."""
        return {name: weight.detach() for name, weight in self.model.named_parameters()}

    def move_average(self, decay: float) -> None:
        """Update the moving average by one step.

        It starts fast, because the first weights carry no information.
        """
        if self.average is not None:
            warm = min(decay, (1 + self.step) / (10 + self.step))
            move = get_ema_multi_avg_fn(warm)
            move(list(self.average.values()), list(self.weights().values()), self.step)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Replace the model's weights by their average, if there is one, within the block."""
        if self.average is None:
            yield
            return
        own = copy_weights(self.weights())
        write(self.weights(), self.average)
        try:
            yield
        finally:
            write(self.weights(), own)

    def keep_best(self, ndcg: float) -> None:
        """Keep the validated weights and, until the decay, what is needed to continue from them."""
        self.best_ndcg, self.best_epoch, self.stale = ndcg, self.epoch, 0
        self.best = copy_weights(self.weights() if self.average is None else self.average)
        if not self.decaying:
            self.origin = {
                "weights": None if self.average is None else copy_weights(self.weights()),
                "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            }

    def begin_decay(self, epochs: int, steps: int) -> None:
        """Return to the best weights and their moments, and decay the rate from there."""
        assert self.origin is not None
        write(self.weights(), self.origin["weights"] or self.best)
        if self.average is not None:
            write(self.average, self.best)
        self.optimizer.load_state_dict(self.origin["optimizer"])
        self.origin, self.stale = None, 0
        self.phase_start, self.phase_epochs = self.epoch, epochs
        self.schedule.decay_start, self.schedule.decay_steps = self.step, steps

    def saved(self) -> dict[str, Any]:
        """Return the whole state, for a checkpoint after any step."""
        return {
            "numbers": {name: getattr(self, name) for name in NUMBERS},
            "decay": [self.schedule.decay_start, self.schedule.decay_steps],
            "sums": [self.sums.sums_T, self.sums.tokens_T, self.sums.implicit],
            "pair_steps": self.sums.pair_steps,
            "weights": self.weights(),
            "average": self.average,
            "best": self.best,
            "origin": self.origin,
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Restore what `saved` returned."""
        for name in NUMBERS:
            setattr(self, name, saved["numbers"][name])
        self.schedule.decay_start, self.schedule.decay_steps = saved["decay"]
        sums = self.sums
        for tensor, value in zip(
            (sums.sums_T, sums.tokens_T, sums.implicit), saved["sums"], strict=True
        ):
            tensor.copy_(value)
        sums.pair_steps = saved["pair_steps"]
        write(self.weights(), saved["weights"])
        if self.average is not None:
            write(self.average, saved["average"])
        self.best, self.origin = saved["best"], saved["origin"]
        self.optimizer.load_state_dict(saved["optimizer"])


def copy_weights(weights: Weights) -> Weights:
    """Return a copy of the weights."""
    return {name: weight.clone() for name, weight in weights.items()}


def write(into: Weights, weights: Weights) -> None:
    """Overwrite weights in place, so that every holder of them sees the change."""
    assert into.keys() == weights.keys()
    for name, weight in into.items():
        weight.copy_(weights[name])
