"""BERT4Rec: Sun et al. 2019, "BERT4Rec: sequential recommendation with bidirectional encoder
representations from transformer" (CIKM).

The input is item embeddings plus learned position embeddings. Blocks of bidirectional attention
follow, with layer normalisation after each residual connection (eq. 1 to 5) and GELU (eq. 4). The
output layer is softmax(GELU(h W + b) E^T + b_O) and shares the item embeddings (eq. 7). Training
masks a fraction of the items and predicts them (the cloze task, eq. 8). Some rows mask only their
last item, which matches the task at test time (section 3.7). To recommend, the model predicts the
item at a mask that is appended to the history.

Differences from the paper: AdamW has a constant rate without warm-up, and the norm of the
embeddings is not limited. The decay at the end of the training is that of `learning.learn`.

Shape suffixes: B rows, S positions, D width, N items, P masked positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from components.baselines import learning
from components.baselines.attention import (
    Block,
    bidirectional_mask,
    distance_from_end,
    last_state,
    start_small,
)
from components.baselines.interface import (
    Data,
    Float32Array,
    Int32Array,
    State,
    TrainedModel,
    TrainingSchedule,
)
from components.baselines.model_settings import AttentionConfig
from components.baselines.padded_histories import (
    Rows,
    draw_items,
    pad_histories,
    shuffle_windows,
    windows,
)


@dataclass(frozen=True, kw_only=True)
class Config(AttentionConfig):
    """Settings of the network, the masking and the optimiser."""

    inner: int = 256
    """Hidden dimension of the feed-forward layers."""
    dropout: float = 0.2
    """Dropout rate."""
    hidden: float = 0.4
    """Fraction of the items of a row that are masked."""
    last_only: float = 0.2
    """Fraction of the rows in which only the last item is masked."""

    def problems(self) -> list[str]:
        """Return an error message for each invalid value."""
        problems = super().problems()
        problems += [] if 0 < self.hidden < 1 else ["hidden is not between 0 and 1"]
        problems += [] if 0 <= self.last_only <= 1 else ["last_only is outside 0..1"]
        return problems


SPACE: Final[dict[str, tuple[Any, ...]]] = {
    "width": (32, 64, 128),
    "layers": (1, 2, 3),
    "heads": (1, 2, 4),
    "dropout": (0.1, 0.2, 0.35, 0.5),
    "hidden": (0.2, 0.4, 0.6),
    "last_only": (0.1, 0.3, 0.5),
    "learning_rate": (5e-4, 1e-3, 2e-3),
    "weight_decay": (0.0, 0.01, 0.1),
    "batch_size": (64, 128, 256),
}


class Network(nn.Module):
    """Maps items and masks to scores. Token N is the mask, token N + 1 is the padding."""

    def __init__(self, items: int, places: int, config: Config) -> None:
        super().__init__()
        self.items, self.places = items, places
        self.mask, self.padding = items, items + 1
        self.item = nn.Embedding(items + 2, config.width, padding_idx=self.padding)
        self.position = nn.Embedding(places, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.drop = nn.Dropout(config.dropout)
        shape = (config.width, config.heads, config.inner, config.dropout)
        blocks = [Block(*shape, nn.GELU(), pre=False) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.out = nn.Sequential(
            nn.Linear(config.width, config.width), nn.GELU(), nn.LayerNorm(config.width)
        )
        self.bias = nn.Parameter(torch.zeros(items))
        self.apply(start_small)

    def forward(self, item_BS: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        """Return the hidden states, [B, S, D]."""
        places = item_BS.shape[1]
        position_BS = distance_from_end(length_B, places, self.places - 1)
        seen_BSS = bidirectional_mask(length_B, places)
        x_BSD = self.drop(self.norm(self.item(item_BS) + self.position(position_BS)))
        for block in self.blocks:
            x_BSD = block(x_BSD, seen_BSS)
        return x_BSD

    def scores(self, state_PD: torch.Tensor) -> torch.Tensor:
        """Return the logits of all items, [P, N]."""
        return self.out(state_PD) @ self.item.weight[: self.items].T + self.bias


class Bert4Rec:
    """BERT4Rec as a baseline model."""

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        places = data.max_history + 1  # one more for the mask
        self.network, self.device = Network(data.items, places, config).to(device), device
        self.parameters = learning.count(self.network)

    @torch.no_grad()
    def score_all(self, histories: Sequence[Int32Array]) -> Float32Array:
        """Return the scores at a mask that is appended to each history, [B, N]."""
        mask = np.array([self.network.mask], np.int32)
        masked = [np.concatenate([history, mask]) for history in histories]
        rows = pad_histories(masked, self.network.padding)
        item_BS, length_B = (torch.from_numpy(a).to(self.device) for a in rows[:2])
        last_BD = last_state(self.network(item_BS, length_B), length_B)
        return self.network.scores(last_BD).cpu().numpy()

    def state(self) -> State:
        """Return the weights."""
        return learning.as_state(self.network)


def hide(rows: Rows, config: Config, generator: np.random.Generator) -> np.ndarray:
    """Select the items to mask, bool [B, S], at least one per row."""
    hidden_BS = draw_items(rows, config.hidden, generator)
    last_BS = np.arange(rows.item_BS.shape[1]) == rows.length_B[:, None] - 1
    last_only_B = generator.random(len(rows.length_B)) < config.last_only
    return np.where(last_only_B[:, None], last_BS, hidden_BS)


def fit(config: Config, data: Data, schedule: TrainingSchedule) -> TrainedModel:
    """Train on the training part of every history with two or more items."""
    device = learning.prepare(schedule)
    model = Bert4Rec(config, data, device)
    network, found = model.network, windows(data.training, data.max_history)

    def losses(generator: np.random.Generator) -> Iterator[torch.Tensor]:
        for rows in shuffle_windows(found, config.batch_size, network.padding, generator):
            hidden_BS = hide(rows, config, generator)
            shown_BS = np.where(hidden_BS, network.mask, rows.item_BS)
            shown, length, target, hidden = (
                torch.from_numpy(a).to(device)
                for a in (shown_BS, rows.length_B, rows.item_BS[hidden_BS], hidden_BS)
            )
            scores_PN = network.scores(network(shown, length)[hidden])
            yield functional.cross_entropy(scores_PN, target)

    return learning.learn(model, network, losses, config, schedule)


def load(config: Config, data: Data, state: State) -> Bert4Rec:
    """Restore a saved model on the CPU."""
    model = Bert4Rec(config, data, torch.device("cpu"))
    learning.from_state(model.network, state)
    return model
