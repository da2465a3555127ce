"""MISSRec: Wang et al. 2023, "MISSRec: pre-training and transferring multi-modal interest-aware
sequence representation for recommendation" (ACM MM), its transductive setting without pre-training.

Main components, with the section numbers of the paper:
- Adapters: one linear layer per modality projects the text vector and the image vector of an item
  to D dimensions (3.2).
- Interest discovery: the item vectors are clustered. The distinct clusters of a history's items are
  its interest tokens (3.2).
- Encoder and decoder: a contextual encoder reads the interest tokens. An interest-aware decoder
  reads the items. The input of an item is the sum of its adapted vectors, an item embedding
  (transductive) and a position embedding (3.3).
- Lightweight dynamic fusion: c_m is the cosine of a candidate and the user's state under modality
  m. softmax(factor x c) with one learned factor weights these cosines, so the weights depend on the
  user and the candidate (3.4). The score is (id + 2 fused) / 3, divided by a temperature. Here id
  is the cosine to the item embedding. The loss is cross-entropy over the catalogue.

Differences from the paper:
- Pre-training on other categories, with its sequence losses and augmentations, is omitted. The
  penalty on similar interests is omitted too.
- Clusters are computed once per modality by k-means. The adapters are linear, so an interest token
  is the adapted mean of its cluster. It follows the adapter and passes gradients to it. The paper
  recomputes the clusters before every epoch by density peaks over both modalities together.
- All positions of a row are trained at once. A position attends to the interests of the items up to
  it. An interest attends to those that an earlier item or the same item introduced. In the paper
  each prefix is a row of its own, and attention is bidirectional.
- A missing vector is left out of the input sum, the interests and the fusion. For an item without
  any vector, the item embedding alone gives the score.

Shape suffixes: B rows, S positions, T interest tokens of a row (the first is always present), D
width, N items, P targets, M modalities, K clusters.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from components.baselines import baseline_vectors, learning
from components.baselines.attention import Block, Memory, distance_from_end, start_small
from components.baselines.baseline_vectors import Clusters, Modalities, Modality, Projection
from components.baselines.interface import Data, State, TrainedModel, TrainingSchedule
from components.baselines.model_settings import ATTENTION_SPACE, AttentionConfig
from components.baselines.next_item import NextItem, fit_next_item


@dataclass(frozen=True, kw_only=True)
class Config(AttentionConfig):
    """Settings of the network, the number of interests, and the optimiser."""

    layers: int = 1
    """Number of blocks of the encoder, and of the decoder."""
    interest_share: float = 0.1
    """Number of clusters of a modality, as a fraction of the items that have its vector."""
    temperature: float = 0.07
    """Temperature that divides the scores, which are cosines."""

    def problems(self) -> list[str]:
        """Return an error message for each invalid value."""
        problems = super().problems()
        problems += [] if 0 < self.interest_share <= 1 else ["interest_share is not in 0..1"]
        problems += [] if self.temperature > 0 else ["temperature is not above 0"]
        return problems


SPACE: Final[dict[str, tuple[Any, ...]]] = {
    **ATTENTION_SPACE,
    "layers": (1, 2),
    "interest_share": (0.03, 0.1, 0.3),
    "temperature": (0.05, 0.07, 0.1),
}


class Interests(NamedTuple):
    """Interest tokens of a batch of rows."""

    token_BT: torch.Tensor
    """Rows of the interest table. Row 0 is the token that is always present."""
    time_T: torch.Tensor
    """Position of the item that introduces the token; -1 for the first token."""
    valid_BT: torch.Tensor
    """Whether the item has a vector, and no earlier item is in the same cluster."""

    def seen(self, time_S: torch.Tensor) -> torch.Tensor:
        """Return the mask of the tokens that queries at the given positions may attend to, [B, S,
        T]."""
        return self.valid_BT[:, None] & (self.time_T <= time_S[:, None])


def block(config: Config) -> Block:
    """Return a post-norm Transformer block, as in the paper."""
    return Block(config.width, config.heads, config.inner, config.dropout, nn.GELU(), pre=False)


class InterestAware(nn.Module):
    """A decoder block with cross-attention to the interests between its two halves."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.block = block(config)
        self.memory = Memory(config.width, config.heads, config.dropout)
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, x_BSD: torch.Tensor, memory_BTD: torch.Tensor, seen_BST: torch.Tensor
    ) -> torch.Tensor:
        """Return the hidden states, [B, S, D]. Self-attention is causal."""
        x_BSD = self.block.attended(x_BSD, None)
        return self.block.fed(self.norm(x_BSD + self.memory(x_BSD, memory_BTD, seen_BST)))


class Network(nn.Module):
    """Maps items, their vectors and their clusters to hidden states. Token N is the padding."""

    def __init__(
        self, modalities: Modalities, clusters: list[Clusters], data: Data, config: Config
    ) -> None:
        super().__init__()
        self.items, self.last = data.items, data.max_history - 1
        self.temperature = config.temperature
        self.item = nn.Embedding(data.items + 1, config.width, padding_idx=data.items)
        self.project = Projection(modalities, config.width)
        self.position = nn.Embedding(data.max_history, config.width)
        self.none = nn.Parameter(torch.zeros(config.width))
        self.norm, self.drop = nn.LayerNorm(config.width), nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList([block(config) for _ in range(config.layers)])
        self.decoder = nn.ModuleList([InterestAware(config) for _ in range(config.layers)])
        self.factor = nn.Parameter(torch.zeros(()))
        self.complete = all(m.present_N.all() for m in modalities.values())
        self._keep(clusters)
        self.apply(start_small)

    def _keep(self, clusters: list[Clusters]) -> None:
        """Store the cluster centres and the interest token of each item and modality.

        The token is -1 where the item has no vector.
        """
        columns, used = [], 1
        for place, (label_N, centre_KE) in enumerate(clusters):
            columns.append(np.append(np.where(label_N >= 0, label_N + used, -1), -1))
            used += len(centre_KE)
            centres = torch.from_numpy(centre_KE)
            self.register_buffer(f"centres_{place}", centres, persistent=False)
        self.register_buffer("token_NM", torch.from_numpy(np.stack(columns, 1)), persistent=False)

    def interests(self, item_BS: torch.Tensor) -> Interests:
        """Return the distinct clusters of the items of each row."""
        token_BSM = self.get_buffer("token_NM")[item_BS]
        token_BT = functional.pad(token_BSM.flatten(1), (1, 0))
        time_S = torch.arange(item_BS.shape[1], device=item_BS.device)
        time_T = functional.pad(time_S.repeat_interleave(token_BSM.shape[2]), (1, 0), value=-1)
        same_BTT = token_BT[:, :, None] == token_BT[:, None, :]
        valid_BT = (token_BT >= 0) & ~same_BTT.tril(-1).any(2)
        return Interests(token_BT.clamp(min=0), time_T, valid_BT)

    def encoded(self, interests: Interests) -> torch.Tensor:
        """Return the contextual encodings of the interest tokens, [B, T, D]."""
        parts = [
            layer(self.get_buffer(f"centres_{place}"))
            for place, layer in enumerate(self.project.layers)
        ]
        table_KD = torch.cat([self.none[None], *parts])
        x_BTD = functional.embedding(interests.token_BT, table_KD)
        seen_BTT = interests.seen(interests.time_T)
        for layer in self.encoder:
            x_BTD = layer(x_BTD, seen_BTT)
        return x_BTD

    def forward(self, item_BS: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        """Return the hidden states, normalised to unit length, [B, S, D]."""
        interests = self.interests(item_BS)
        memory_BTD = self.encoded(interests)
        seen_BST = interests.seen(torch.arange(item_BS.shape[1], device=item_BS.device))
        distinct_P, place_BS = torch.unique(item_BS, return_inverse=True)
        vector_PD = self.project(distinct_P).vector_PMD.sum(1)
        position_BSD = self.position(distance_from_end(length_B, item_BS.shape[1], self.last))
        x_BSD = self.drop(self.norm(vector_PD[place_BS] + self.item(item_BS) + position_BSD))
        for layer in self.decoder:
            x_BSD = layer(x_BSD, memory_BTD, seen_BST)
        return functional.normalize(x_BSD, dim=-1)

    def scores(self, state_PD: torch.Tensor) -> torch.Tensor:
        """Return the scores of all items, [P, N]."""
        every_N = torch.arange(self.items, device=state_PD.device)
        vector_NMD, present_NM = self.project(every_N)
        known_NCD = torch.cat([self.item.weight[: self.items, None], vector_NMD], 1)
        direction_CND = functional.normalize(known_NCD, dim=2).transpose(0, 1)
        cosine_PCN = (state_PD @ direction_CND.flatten(0, 1).T).unflatten(1, (-1, self.items))
        id_PN, modality_PMN = cosine_PCN[:, 0], cosine_PCN[:, 1:]
        fused_PN = Fusion.apply(modality_PMN, None if self.complete else present_NM.T, self.factor)
        score_PN = (id_PN + 2 * fused_PN) / 3
        if not self.complete:
            score_PN = torch.where(present_NM.any(1), score_PN, id_PN)
        return score_PN / self.temperature


class Fusion(torch.autograd.Function):
    """Mean of the cosines under each modality, weighted by softmax(factor x cosine).

    Absent modalities are masked. The gradient is explicit because these are the largest arrays of a
    training step:

        d fused / d c_m    = w_m (1 + factor (c_m - fused))
        d fused / d factor = sum over m of w_m c_m (c_m - fused)
    """

    @staticmethod
    def forward(
        ctx: Any, cosine_PMN: torch.Tensor, present_MN: torch.Tensor | None, factor: torch.Tensor
    ) -> torch.Tensor:
        """Return the fused cosines, [P, N]; 0 for an item without any vector."""
        # |cosine| <= 1, so exp cannot overflow for realistic factors
        weight_PMN = (cosine_PMN * factor).exp_()
        if present_MN is not None:
            weight_PMN.mul_(present_MN)
        weight_PMN.div_(weight_PMN.sum(1, keepdim=True).clamp_(min=1e-20))
        fused_PN = (weight_PMN * cosine_PMN).sum(1)
        ctx.save_for_backward(cosine_PMN, weight_PMN, fused_PN, factor)
        return fused_PN

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        """Return the gradients of the cosines and the factor."""
        cosine_PMN, weight_PMN, fused_PN, factor = ctx.saved_tensors
        weighed_PMN = weight_PMN * grads[0][:, None]
        away_PMN = cosine_PMN - fused_PN[:, None]
        grad_factor = torch.dot((weighed_PMN * away_PMN).flatten(), cosine_PMN.flatten())
        return away_PMN.mul_(factor).add_(1).mul_(weighed_PMN), None, grad_factor


class MissRec(NextItem):
    """MISSRec as a baseline model."""

    def __init__(
        self,
        modalities: Modalities,
        clusters: list[Clusters],
        config: Config,
        data: Data,
        device: torch.device,
    ) -> None:
        super().__init__(Network(modalities, clusters, data, config), device)
        self._modalities, self._clusters = modalities, clusters

    def state(self) -> State:
        """Return the weights, the item vectors and their clusters."""
        state = super().state() | baseline_vectors.as_state(self._modalities)
        for place, (label_N, centre_KE) in enumerate(self._clusters):
            state |= {f"clusters_{place}:label": label_N, f"clusters_{place}:centre": centre_KE}
        return state


def find_interests(modality: Modality, config: Config, seed: int) -> Clusters:
    """Cluster the vectors of a modality into interests."""
    clusters = round(config.interest_share * int(modality.present_N.sum()))
    return baseline_vectors.cluster_items(modality, max(clusters, 1), seed)


def fit(config: Config, data: Data, schedule: TrainingSchedule) -> TrainedModel:
    """Train with every item of the training part as a target, except the first of each history.

    Raises:
        UserError: the vectors do not match the catalogue or are not usable.
    """
    device = learning.prepare(schedule)
    modalities = baseline_vectors.read_modalities(data)
    clusters = [find_interests(modality, config, schedule.seed) for modality in modalities.values()]
    model = MissRec(modalities, clusters, config, data, device)
    return fit_next_item(model, config, data, schedule)


def load(config: Config, data: Data, state: State) -> MissRec:
    """Restore a saved model on the CPU."""
    modalities, others = baseline_vectors.from_state(state)
    clusters = [
        Clusters(others.pop(f"clusters_{k}:label"), others.pop(f"clusters_{k}:centre"))
        for k in range(len(modalities))
    ]
    model = MissRec(modalities, clusters, config, data, torch.device("cpu"))
    learning.from_state(model.network, others)
    return model
