"""The course of a training: epochs, validation on all validation users, the best weights."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from components.baselines.interface import Course, Curve, Fitted, Model, State
from macrec.errors import UserError
from macrec.progress import Progress
from macrec.runtime import choose_device

CLIP_NORM: Final = 5.0

Losses = Callable[[np.random.Generator], Iterator[torch.Tensor]]
"""One epoch: the loss of each batch, on which a step is made before the next is asked for."""


def prepare(course: Course) -> torch.device:
    """Seeds torch, for the weights and for dropout; gives the device."""
    torch.manual_seed(course.seed)
    return choose_device(course.device)


def learn(model: Model, network: nn.Module, losses: Losses, config: Any, course: Course) -> Fitted:
    """Trains by AdamW until validation stops improving, and keeps the best weights.

    Raises:
        UserError: the loss is not finite.
    """
    optimiser = _optimiser(network, config)
    best, kept, stale, cut = -1.0, copy.deepcopy(network.state_dict()), 0, False
    curve: Curve = []
    with Progress(type(model).__name__, course.epochs, "epochs") as progress:
        for epoch in range(1, course.epochs + 1):
            network.train()
            loss = _epoch(network, optimiser, losses, np.random.default_rng([course.seed, epoch]))
            curve.append({"epoch": epoch, "loss": loss})
            progress.advance(1, f"loss {loss:.3f}, best validation NDCG@10 {best:.4f}")
            cut = course.out_of_time()
            if epoch % course.validate_every and epoch < course.epochs and not cut:
                continue
            network.eval()
            ndcg = course.validate(model)
            curve[-1]["validation_ndcg_10"] = ndcg
            stale += 1
            if ndcg > best:
                best, kept, stale = ndcg, copy.deepcopy(network.state_dict()), 0
            if cut or stale >= course.patience:
                break
    network.load_state_dict(kept)
    network.eval()
    return Fitted(model, curve, cut)


def pretrain(
    name: str, network: nn.Module, losses: Losses, epochs: int, config: Any, course: Course
) -> Curve:
    """Trains without validation, before `learn`; a search whose time is up ends it.

    Raises:
        UserError: the loss is not finite.
    """
    optimiser = _optimiser(network, config)
    curve: Curve = []
    network.train()
    with Progress(f"{name}, pre-training", epochs, "epochs") as progress:
        for epoch in range(1, epochs + 1):
            generator = np.random.default_rng([course.seed, epoch, 1])  # not those of `learn`
            loss = _epoch(network, optimiser, losses, generator)
            curve.append({"pretraining_epoch": epoch, "loss": loss})
            progress.advance(1, f"loss {loss:.3f}")
            if course.out_of_time():
                break
    return curve


def _optimiser(network: nn.Module, config: Any) -> torch.optim.Optimizer:
    """AdamW, decaying matrices alone."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=0.0)


def _epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    losses: Losses,
    generator: np.random.Generator,
) -> float:
    """The mean loss of the batches."""
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
    """Weights of a network."""
    return sum(p.numel() for p in network.parameters())


def as_state(network: nn.Module) -> State:
    """Its weights as arrays."""
    return {name: value.cpu().numpy() for name, value in network.state_dict().items()}


def from_state(network: nn.Module, state: State) -> None:
    """Takes over the weights."""
    network.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    network.eval()
