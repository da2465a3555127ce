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
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from components.baselines import learning
from components.baselines.attention import Encoder, start_small
from components.baselines.interface import Course, Data, Fitted, State
from components.baselines.next_item import NextItem, fit_next_item
from components.baselines.settings import ATTENTION_SPACE, AttentionConfig


@dataclass(frozen=True, kw_only=True)
class Config(AttentionConfig):
    """What the network is and how it steps."""


SPACE: Final[dict[str, tuple[Any, ...]]] = ATTENTION_SPACE


class Network(nn.Module):
    """Items to states. Token N is the padding, others after it are a subclass's."""

    def __init__(self, items: int, places: int, config: AttentionConfig, others: int = 0) -> None:
        super().__init__()
        self.items, self.scale = items, math.sqrt(config.width)
        self.item = nn.Embedding(items + 1 + others, config.width, padding_idx=items)
        self.encoder = Encoder(places, config)
        self.apply(start_small)

    def forward(
        self, item_BS: torch.Tensor, length_B: torch.Tensor, seen_BSS: torch.Tensor | None = None
    ) -> torch.Tensor:
        """States [B, S, D]; causal unless `seen_BSS` says what a place sees."""
        return self.encoder(self.item(item_BS) * self.scale, length_B, seen_BSS)

    def scores(self, state_PD: torch.Tensor) -> torch.Tensor:
        """[P, N]."""
        return state_PD @ self.item.weight[: self.items].T


class SasRec(NextItem):
    """The network as a model."""

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        super().__init__(Network(data.items, data.max_history, config), device)


def fit(config: Config, data: Data, course: Course) -> Fitted:
    """Trains on every item of the training part but the first of each history."""
    model = SasRec(config, data, learning.prepare(course))
    return fit_next_item(model, config, data, course)


def load(config: Config, data: Data, state: State) -> SasRec:
    """The model that was saved, on a CPU."""
    model = SasRec(config, data, torch.device("cpu"))
    learning.from_state(model.network, state)
    return model
