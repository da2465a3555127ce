"""Training loop: epochs, validation on all validation users, selection of the best weights."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import nn

from components.baselines.interface import Curve, Model, State, TrainedModel, TrainingSchedule
from macrec.compute.device import choose_device, keep_freed_memory
from macrec.core.errors import UserError
from macrec.core.progress import Progress

CLIP_NORM: Final = 5.0

Losses = Callable[[np.random.Generator], Iterator[torch.Tensor]]
"""Yields the loss of each batch of an epoch. A step is made before the next loss is computed."""


def prepare(schedule: TrainingSchedule) -> torch.device:
    """Seed torch for the initial weights and dropout, and return the device."""
    torch.manual_seed(schedule.seed)
    device = choose_device(schedule.device)
    if device.type == "cpu":
        keep_freed_memory()
    return device


class Faster(NamedTuple):
    """Weights whose learning rate is a multiple of the rate of the others."""

    weights: Sequence[torch.Tensor] = ()
    factor: float = 1.0


NONE_FASTER: Final = Faster()


def learn(
    model: Model,
    network: nn.Module,
    losses: Losses,
    config: Any,
    schedule: TrainingSchedule,
    faster: Faster = NONE_FASTER,
) -> TrainedModel:
    """Train by AdamW with early stopping and a final decay, and keep the best weights.

    The learning rate is constant until validation stops improving. Training then continues from the
    best weights, and the rate decays linearly to zero. The decay lasts `decay` times as many epochs
    as led to the best weights. Every network has this schedule, which is that of the MACRec
    generator.

    Raises:
        UserError: the loss is not finite.
    """
    optimiser = _optimiser(network, config, faster)
    learning = _Learning(model, network, losses, optimiser, schedule)
    name = type(model).__name__
    learning.phase(name, schedule.epochs, lambda _: config.learning_rate, schedule.patience)
    falling = math.ceil(schedule.decay * learning.best.epoch)
    if falling and not learning.cut:
        learning.back_to_the_best()
        share = config.learning_rate / (falling + 1)
        learning.phase(f"{name}, decay", falling, lambda n: share * (falling + 1 - n), falling)
    learning.back_to_the_best()
    network.eval()
    return TrainedModel(model, learning.curve, learning.cut)


class _Best(NamedTuple):
    """Weights and optimiser state at the best validation."""

    epoch: int
    ndcg: float
    weights: dict[str, Any]
    moments: dict[str, Any]


class _Learning:
    """A training in progress: its curve and its best state."""

    def __init__(
        self,
        model: Model,
        network: nn.Module,
        losses: Losses,
        optimiser: torch.optim.Optimizer,
        schedule: TrainingSchedule,
    ) -> None:
        self.model, self.network, self.losses = model, network, losses
        self.optimiser, self.schedule = optimiser, schedule
        self.curve: Curve = []
        self.cut = False
        self.best = self._state(-1.0)

    def _state(self, ndcg: float) -> _Best:
        moments = copy.deepcopy(self.optimiser.state_dict())
        return _Best(len(self.curve), ndcg, copy.deepcopy(self.network.state_dict()), moments)

    def back_to_the_best(self) -> None:
        """Restore the weights and the optimiser state of the best validation."""
        self.network.load_state_dict(self.best.weights)
        self.optimiser.load_state_dict(self.best.moments)

    def phase(self, what: str, epochs: int, rate: Callable[[int], float], patience: int) -> None:
        """Train for `epochs` epochs, the n-th with the learning rate `rate(n)`.

        The phase ends early after `patience` consecutive validations without improvement, or when
        the time limit of a search has passed.
        """
        schedule, stale = self.schedule, 0
        with Progress(what, epochs, "epochs") as progress:
            for number in range(1, epochs + 1):
                for group in self.optimiser.param_groups:
                    group["lr"] = rate(number) * group["factor"]
                self._epoch()
                loss = self.curve[-1]["loss"]
                progress.advance(
                    1, f"loss {loss:.3f}, best validation NDCG@10 {self.best.ndcg:.4f}"
                )
                self.cut = schedule.out_of_time()
                if number % schedule.validate_every and number < epochs and not self.cut:
                    continue
                stale = 0 if self._validate() else stale + 1
                if self.cut or stale >= patience:
                    return

    def _epoch(self) -> None:
        epoch = len(self.curve) + 1
        self.network.train()
        generator = np.random.default_rng([self.schedule.seed, epoch])
        loss = _epoch(self.network, self.optimiser, self.losses, generator)
        self.curve.append({"epoch": epoch, "loss": loss})

    def _validate(self) -> bool:
        """Validate, and return whether the result is the best so far."""
        self.network.eval()
        ndcg = self.schedule.validate(self.model)
        self.curve[-1]["validation_ndcg_10"] = ndcg
        if ndcg <= self.best.ndcg:
            return False
        self.best = self._state(ndcg)
        return True


def pretrain(
    name: str,
    network: nn.Module,
    losses: Losses,
    epochs: int,
    config: Any,
    schedule: TrainingSchedule,
) -> Curve:
    """Train without validation, before `learn`. The time limit of a search ends it early.

    Raises:
        UserError: the loss is not finite.
    """
    optimiser = _optimiser(network, config)
    curve: Curve = []
    network.train()
    with Progress(f"{name}, pre-training", epochs, "epochs") as progress:
        for epoch in range(1, epochs + 1):
            generator = np.random.default_rng([schedule.seed, epoch, 1])  # different from `learn`'s
            loss = _epoch(network, optimiser, losses, generator)
            curve.append({"pretraining_epoch": epoch, "loss": loss})
            progress.advance(1, f"loss {loss:.3f}")
            if schedule.out_of_time():
                break
    return curve


def _optimiser(
    network: nn.Module, config: Any, faster: Faster = NONE_FASTER
) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on matrices only."""
    fast = {id(weight) for weight in faster.weights}
    parts: dict[tuple[float, float], list[nn.Parameter]] = {}
    for weight in network.parameters():
        decay = config.weight_decay if weight.ndim > 1 else 0.0
        factor = faster.factor if id(weight) in fast else 1.0
        parts.setdefault((decay, factor), []).append(weight)
    groups = [
        {"params": members, "weight_decay": decay, "factor": factor}
        for (decay, factor), members in parts.items()
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    losses: Losses,
    generator: np.random.Generator,
) -> float:
    """Train for one epoch and return the mean loss of the batches."""
    total, batches = 0.0, 0
    for loss in losses(generator):
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimiser.step()
        total, batches = total + float(loss.detach()), batches + 1
    if not np.isfinite(total):
        raise UserError("baselines: the loss is not finite. Lower learning_rate in settings.")
    return total / max(batches, 1)


def count(network: nn.Module) -> int:
    """Return the number of weights of a network."""
    return sum(p.numel() for p in network.parameters())


def as_state(network: nn.Module) -> State:
    """Return the weights as arrays."""
    return {name: value.cpu().numpy() for name, value in network.state_dict().items()}


def from_state(network: nn.Module, state: State) -> None:
    """Load the weights and switch to evaluation mode."""
    network.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    network.eval()
