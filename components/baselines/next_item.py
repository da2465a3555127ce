"""Causal models: they predict each item of a history from all items before it.

Shape suffixes: B rows, S positions, D width, N items, P targets.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from components.baselines import learning
from components.baselines.attention import last_state
from components.baselines.interface import (
    Data,
    Float32Array,
    Int32Array,
    State,
    TrainedModel,
    TrainingSchedule,
)
from components.baselines.padded_histories import Rows, pad_histories, shuffle_windows, windows


class Causal(Protocol):
    """A network whose state at a position does not depend on later items."""

    items: int
    """N, which is also the padding token."""

    def __call__(self, item_BS: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        """Return the hidden states, [B, S, D]."""
        ...

    def scores(self, state_PD: torch.Tensor) -> torch.Tensor:
        """Return the logits of all items, [P, N]."""
        ...


class NextItem:
    """A causal network as a baseline model."""

    network: Any
    """An nn.Module that implements `Causal`."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network, self.device = network.to(device), device
        self.parameters = learning.count(network)

    @torch.no_grad()
    def score_all(self, histories: Sequence[Int32Array]) -> Float32Array:
        """Return the scores of the item after the last one, [B, N]."""
        network = cast(Causal, self.network)
        rows = pad_histories(histories, network.items)
        item_BS, length_B = (torch.from_numpy(a).to(self.device) for a in rows[:2])
        last_BD = last_state(network(item_BS, length_B), length_B)
        return network.scores(last_BD).cpu().numpy()

    def state(self) -> State:
        """Return the weights."""
        return learning.as_state(self.network)


def loss_of(network: Causal, rows: Rows, device: torch.device) -> torch.Tensor:
    """Return the cross-entropy over the catalogue of the targets of the rows.

    Each target is predicted from all items before it.
    """
    source_BS, target_BS = rows.item_BS[:, :-1], rows.item_BS[:, 1:]
    place_S = np.arange(1, rows.item_BS.shape[1])
    counts_BS = (place_S >= rows.first_B[:, None]) & (place_S < rows.length_B[:, None])
    source, length, target, counts = (
        torch.from_numpy(a).to(device)
        for a in (source_BS, rows.length_B - 1, target_BS[counts_BS], counts_BS)
    )
    return functional.cross_entropy(network.scores(network(source, length)[counts]), target)


def fit_next_item(
    model: NextItem, config: Any, data: Data, schedule: TrainingSchedule
) -> TrainedModel:
    """Train with every item of the training part as a target, except the first of each history."""
    found = windows(data.training, data.max_history)

    def losses(generator: np.random.Generator) -> Iterator[torch.Tensor]:
        for rows in shuffle_windows(found, config.batch_size, data.items, generator):
            yield loss_of(model.network, rows, model.device)

    return learning.learn(model, model.network, losses, config, schedule)
