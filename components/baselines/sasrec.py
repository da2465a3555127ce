"""SASRec: Kang and McAuley 2018, "Self-attentive sequential recommendation" (ICDM).

Item embeddings times sqrt(D) plus learned positions (eq. 1), blocks of causal self-attention
(eq. 2 to 4) and a feed-forward layer (eq. 5), each on normalised input with dropout and a residual
(section III-C, eq. 6), and scores by the same item embeddings (eq. 7, III-D).

Where it departs: the loss is cross-entropy over the full catalogue at all positions at once, not
the binary one with a sampled negative, which is what made the published figures low (Klenitskiy and
Vasilev 2023, RecSys, "Turning dross into gold loss"). Attention has an output matrix, the last
block is normalised, the optimiser is AdamW.

Shape suffixes: B rows, S places, D width, N items, P targets.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from components.baselines import learning
from components.baselines.attention import Block, from_end, start_small
from components.baselines.histories import Rows, padded, shuffled, windows
from components.baselines.interface import Course, Data, Fitted, Float32Array, Int32Array, State
from macrec.errors import check


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the network is and how it steps."""

    width: int = 64
    """Components of an item's embedding, D."""
    layers: int = 2
    """Blocks."""
    heads: int = 2
    """Attention heads of a block."""
    inner: int = 64
    """Width of the feed-forward layers."""
    dropout: float = 0.5
    """Dropout rate."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW."""
    weight_decay: float = 0.01
    """Weight decay of AdamW, of matrices alone."""
    batch_size: int = 128
    """Histories of a step."""

    def __post_init__(self) -> None:
        sizes = ("width", "layers", "heads", "inner", "batch_size")
        problems = [f"{name} is below 1" for name in sizes if getattr(self, name) < 1]
        if not problems and self.width % self.heads:
            problems.append("width is no multiple of heads")
        problems += [] if 0 <= self.dropout < 1 else ["dropout is not in 0..1, 1 excluded"]
        problems += [] if self.learning_rate > 0 else ["learning_rate is not above 0"]
        problems += [] if self.weight_decay >= 0 else ["weight_decay is negative"]
        check(not problems, f"sasrec: {'; '.join(problems)}.")


SPACE: Final[dict[str, tuple[Any, ...]]] = {
    "width": (32, 64, 128),
    "layers": (1, 2, 3),
    "heads": (1, 2, 4),
    "inner": (64, 256),
    "dropout": (0.2, 0.35, 0.5, 0.65),
    "learning_rate": (5e-4, 1e-3, 2e-3),
    "weight_decay": (0.0, 0.01, 0.1),
    "batch_size": (64, 128, 256),
}


class Network(nn.Module):
    """Items to states."""

    def __init__(self, items: int, places: int, config: Config) -> None:
        super().__init__()
        self.items, self.places = items, places
        self.item = nn.Embedding(items + 1, config.width, padding_idx=items)
        self.position = nn.Embedding(places, config.width)
        self.drop = nn.Dropout(config.dropout)
        shape = (config.width, config.heads, config.inner, config.dropout)
        blocks = [Block(*shape, nn.ReLU(), pre=True) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.width)
        self.apply(start_small)

    def forward(self, item_BS: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        """States [B, S, D]; padding stands at the end, where no item sees it."""
        position_BS = from_end(length_B, item_BS.shape[1], self.places - 1)
        embedded_BSD = self.item(item_BS) * math.sqrt(self.norm.normalized_shape[0])
        x_BSD = self.drop(embedded_BSD + self.position(position_BS))
        for block in self.blocks:
            x_BSD = block(x_BSD, None)
        return self.norm(x_BSD)

    def scores(self, state_PD: torch.Tensor) -> torch.Tensor:
        """[P, N]."""
        return state_PD @ self.item.weight[: self.items].T


class SasRec:
    """The network as a model."""

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        self.network, self.device = Network(data.items, data.max_history, config).to(device), device
        self.parameters = learning.count(self.network)

    @torch.no_grad()
    def score_all(self, histories: Sequence[Int32Array]) -> Float32Array:
        """What follows the last item."""
        rows = padded(histories, self.network.items)
        item_BS, length_B = (torch.from_numpy(a).to(self.device) for a in rows[:2])
        state_BSD = self.network(item_BS, length_B)
        last_BD = state_BSD[torch.arange(len(length_B), device=self.device), length_B - 1]
        return self.network.scores(last_BD).cpu().numpy()

    def state(self) -> State:
        """The weights."""
        return learning.as_state(self.network)


def loss_of(network: Network, rows: Rows, device: torch.device) -> torch.Tensor:
    """Cross-entropy over the catalogue of the rows' targets, each from all before it."""
    source_BS, target_BS = rows.item_BS[:, :-1], rows.item_BS[:, 1:]
    place_S = np.arange(1, rows.item_BS.shape[1])
    counts_BS = (place_S >= rows.first_B[:, None]) & (place_S < rows.length_B[:, None])
    source, length, target, counts = (
        torch.from_numpy(a).to(device)
        for a in (source_BS, rows.length_B - 1, target_BS[counts_BS], counts_BS)
    )
    return functional.cross_entropy(network.scores(network(source, length)[counts]), target)


def fit(config: Config, data: Data, course: Course) -> Fitted:
    """Trains on every item of the training part but the first of each history."""
    device = learning.prepare(course)
    model = SasRec(config, data, device)
    found = windows(data.training, data.max_history)

    def losses(generator: np.random.Generator) -> Iterator[torch.Tensor]:
        for rows in shuffled(found, config.batch_size, data.items, generator):
            yield loss_of(model.network, rows, device)

    return learning.learn(model, model.network, losses, config, course)


def load(config: Config, data: Data, state: State) -> SasRec:
    """The model that was saved, on a CPU."""
    model = SasRec(config, data, torch.device("cpu"))
    learning.from_state(model.network, state)
    return model
