"""SASRec: Kang and McAuley 2018, "Self-attentive sequential recommendation" (ICDM).

The input is item embeddings times sqrt(D) plus learned position embeddings (eq. 1). Each block has
causal self-attention (eq. 2 to 4) and a feed-forward layer (eq. 5). Both have normalised input,
dropout and a residual connection (section III-C, eq. 6). The item embeddings also compute the
scores (eq. 7, III-D).

Differences from the paper: the loss is cross-entropy over the full catalogue at all positions. The
paper uses binary cross-entropy with one sampled negative, which explains its low published results
(Klenitskiy and Vasilev 2023, RecSys, "Turning dross into gold loss"). Attention has an output
matrix, the output of the last block is normalised, and the optimiser is AdamW.

Shape suffixes: B rows, S positions, D width, N items, P targets.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from components.baselines import learning
from components.baselines.attention import Encoder, start_small
from components.baselines.interface import Data, State, TrainedModel, TrainingSchedule
from components.baselines.model_settings import ATTENTION_SPACE, AttentionConfig
from components.baselines.next_item import NextItem, fit_next_item


@dataclass(frozen=True, kw_only=True)
class Config(AttentionConfig):
    """Settings of the network and the optimiser."""


SPACE: Final[dict[str, tuple[Any, ...]]] = ATTENTION_SPACE


class Network(nn.Module):
    """Maps items to hidden states. Token N is the padding; a model may add `others` tokens after
    it."""

    def __init__(self, items: int, places: int, config: AttentionConfig, others: int = 0) -> None:
        super().__init__()
        self.items, self.scale = items, math.sqrt(config.width)
        self.item = nn.Embedding(items + 1 + others, config.width, padding_idx=items)
        self.encoder = Encoder(places, config)
        self.apply(start_small)

    def forward(
        self, item_BS: torch.Tensor, length_B: torch.Tensor, seen_BSS: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the hidden states, [B, S, D]. Attention is causal unless the mask `seen_BSS` is
        given."""
        return self.encoder(self.item(item_BS) * self.scale, length_B, seen_BSS)

    def scores(self, state_PD: torch.Tensor) -> torch.Tensor:
        """Return the logits of all items, [P, N]."""
        return state_PD @ self.item.weight[: self.items].T


class SasRec(NextItem):
    """SASRec as a baseline model."""

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        super().__init__(Network(data.items, data.max_history, config), device)


def fit(config: Config, data: Data, schedule: TrainingSchedule) -> TrainedModel:
    """Train with every item of the training part as a target, except the first of each history."""
    model = SasRec(config, data, learning.prepare(schedule))
    return fit_next_item(model, config, data, schedule)


def load(config: Config, data: Data, state: State) -> SasRec:
    """Restore a saved model on the CPU."""
    model = SasRec(config, data, torch.device("cpu"))
    learning.from_state(model.network, state)
    return model
