"""Models that read a history from left to right: each item's successor from all before it.

Shape suffixes: B rows, S places, D width, N items, P targets.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from components.baselines import learning
from components.baselines.attention import last_of
from components.baselines.interface import Course, Data, Fitted, Float32Array, Int32Array, State
from components.baselines.padded_histories import Rows, padded, shuffled, windows


class Causal(Protocol):
    """A network whose state at a place knows nothing of the items behind it."""

    items: int
    """N, which is also the token of padding."""

    def __call__(self, item_BS: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        """States [B, S, D]."""
        ...

    def scores(self, state_PD: torch.Tensor) -> torch.Tensor:
        """[P, N]."""
        ...


class NextItem:
    """Such a network as a model."""

    network: Any
    """An nn.Module that is `Causal`."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network, self.device = network.to(device), device
        self.parameters = learning.count(network)

    @torch.no_grad()
    def score_all(self, histories: Sequence[Int32Array]) -> Float32Array:
        """What follows the last item."""
        network = cast(Causal, self.network)
        rows = padded(histories, network.items)
        item_BS, length_B = (torch.from_numpy(a).to(self.device) for a in rows[:2])
        last_BD = last_of(network(item_BS, length_B), length_B)
        return network.scores(last_BD).cpu().numpy()

    def state(self) -> State:
        """The weights."""
        return learning.as_state(self.network)


def loss_of(network: Causal, rows: Rows, device: torch.device) -> torch.Tensor:
    """Cross-entropy over the catalogue of the rows' targets, each from all before it."""
    source_BS, target_BS = rows.item_BS[:, :-1], rows.item_BS[:, 1:]
    place_S = np.arange(1, rows.item_BS.shape[1])
    counts_BS = (place_S >= rows.first_B[:, None]) & (place_S < rows.length_B[:, None])
    source, length, target, counts = (
        torch.from_numpy(a).to(device)
        for a in (source_BS, rows.length_B - 1, target_BS[counts_BS], counts_BS)
    )
    return functional.cross_entropy(network.scores(network(source, length)[counts]), target)


def fit_next_item(model: NextItem, config: Any, data: Data, course: Course) -> Fitted:
    """Trains on every item of the training part but the first of each history."""
    found = windows(data.training, data.max_history)

    def losses(generator: np.random.Generator) -> Iterator[torch.Tensor]:
        for rows in shuffled(found, config.batch_size, data.items, generator):
            yield loss_of(model.network, rows, model.device)

    return learning.learn(model, model.network, losses, config, course)
