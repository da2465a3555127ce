"""FDSA: Zhang et al. 2019, "Feature-level deeper self-attention network for sequential
recommendation" (IJCAI).

The model has two streams of causal self-attention over a history: one of the items (eq. 5 to 9) and
one of their features (section 3.3). Vanilla attention weights the features of an item:

    alpha = softmax(W a + b), f = sum_m alpha_m a_m          (eq. 1 and 2)

The last states of both streams are concatenated. A linear layer and the item embeddings turn them
into scores (eq. 10 and 11). The paper uses category and brand as features. Here the features of an
item are its projected text vector and image vector, which all multimodal systems of the comparison
may read. A missing vector has weight 0. An item without any vector has a learned one.

Differences from the paper: the loss is cross-entropy over the full catalogue at all positions, not
binary cross-entropy with one sampled negative. Blocks, positions and optimiser are those of our
SASRec, so the two models differ only in the features.

Shape suffixes: B rows, S positions, D width, N items, P flattened positions, M modalities.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from components.baselines import baseline_vectors, learning
from components.baselines.attention import Encoder, start_small
from components.baselines.baseline_vectors import Modalities, Projection
from components.baselines.interface import Data, State, TrainedModel, TrainingSchedule
from components.baselines.model_settings import ATTENTION_SPACE, AttentionConfig
from components.baselines.next_item import NextItem, fit_next_item


@dataclass(frozen=True, kw_only=True)
class Config(AttentionConfig):
    """Settings of both streams and the optimiser."""


SPACE: Final[dict[str, tuple[Any, ...]]] = ATTENTION_SPACE


class Features(nn.Module):
    """Attention-weighted combination of the feature vectors of an item."""

    def __init__(self, modalities: Modalities, width: int) -> None:
        super().__init__()
        self.project = Projection(modalities, width)
        self.weigh = nn.Linear(width, 1)
        self.none = nn.Parameter(torch.zeros(width))

    def forward(self, item_P: torch.Tensor) -> torch.Tensor:
        """Return one feature vector per item, [P, D]."""
        vector_PMD, present_PM = self.project(item_P)
        some_P1 = present_PM.any(1, keepdim=True)
        logit_PM = self.weigh(vector_PMD).squeeze(-1).masked_fill(~present_PM, -torch.inf)
        # The softmax of a row of only -inf is NaN, and so is its gradient.
        alpha_PM = logit_PM.masked_fill(~some_P1, 0.0).softmax(1)
        return torch.where(some_P1, (alpha_PM[..., None] * vector_PMD).sum(1), self.none)


class Network(nn.Module):
    """Maps items and their features to hidden states. Token N is the padding."""

    def __init__(self, modalities: Modalities, data: Data, config: Config) -> None:
        super().__init__()
        self.items, self.scale = data.items, math.sqrt(config.width)
        self.item = nn.Embedding(data.items + 1, config.width, padding_idx=data.items)
        self.features = Features(modalities, config.width)
        self.item_stream = Encoder(data.max_history, config)
        self.feature_stream = Encoder(data.max_history, config)
        self.merge = nn.Linear(2 * config.width, config.width)
        self.apply(start_small)
        nn.init.xavier_uniform_(self.merge.weight)  # at 0.02 all states would be similar

    def forward(self, item_BS: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        """Return the hidden states, [B, S, D]."""
        distinct_P, place_BS = torch.unique(item_BS, return_inverse=True)
        feature_BSD = self.features(distinct_P)[place_BS]
        streams = (
            self.item_stream(self.item(item_BS) * self.scale, length_B),
            self.feature_stream(feature_BSD, length_B),
        )
        return self.merge(torch.cat(streams, -1))

    def scores(self, state_PD: torch.Tensor) -> torch.Tensor:
        """Return the logits of all items, [P, N]."""
        return state_PD @ self.item.weight[: self.items].T


class Fdsa(NextItem):
    """FDSA as a baseline model."""

    def __init__(
        self, modalities: Modalities, config: Config, data: Data, device: torch.device
    ) -> None:
        super().__init__(Network(modalities, data, config), device)
        self._modalities = modalities

    def state(self) -> State:
        """Return the weights and the item vectors."""
        return super().state() | baseline_vectors.as_state(self._modalities)


def fit(config: Config, data: Data, schedule: TrainingSchedule) -> TrainedModel:
    """Train with every item of the training part as a target, except the first of each history.

    Raises:
        UserError: the vectors do not match the catalogue or are not usable.
    """
    device = learning.prepare(schedule)
    model = Fdsa(baseline_vectors.read_modalities(data), config, data, device)
    return fit_next_item(model, config, data, schedule)


def load(config: Config, data: Data, state: State) -> Fdsa:
    """Restore a saved model on the CPU."""
    modalities, weights = baseline_vectors.from_state(state)
    model = Fdsa(modalities, config, data, torch.device("cpu"))
    learning.from_state(model.network, weights)
    return model
