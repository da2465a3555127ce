"""VIP5: Geng et al. 2023, "VIP5: towards multimodal foundation models for recommendation" (EMNLP
Findings).

Each item of a history is the tokens of its ID followed by `visual` visual tokens. Two layers with
tanh between them and T5's normalisation map its image vector to the visual tokens (section 3.1).
Each token embedding is added to the embeddings of its whole word and of its category, textual or
visual. A T5 reads these inputs and generates the ID of the next item (`generative.py`). Items
without an image share learned visual tokens; the zero vectors of these items are never used.

Differences from the paper: the paper's second contribution, adapters in a frozen T5, requires a
pre-trained T5. There is none here, and adapters in random weights have nothing to adapt. All
weights are trained, as in the paper's comparison with full fine-tuning. There are no English
prompts, and only next-item prediction of the three tasks. The IDs of P5 number the items by first
appearance (`sequential`; in the training part only, Hua et al. 2023). The IDs of P5-CID are
available as an option. Text vectors are not read: VIP5 uses only the ID and the image of an item.

Shapes: N items, E components of an image vector, D width, B rows, J tokens of a history, V tokens
of the vocabulary, U distinct items of a batch, P visual tokens of an item.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from components.baselines import generative, learning
from components.baselines.baseline_vectors import Modality, read_modalities
from components.baselines.collaborative_ids import collaborative_ids, sequential_ids
from components.baselines.generative import VISUAL, ItemIds, Source
from components.baselines.interface import Data, Float32Array, State, TrainedModel, TrainingSchedule
from macrec.generator.tokens import FIRST_CODE

CLUSTERS: Final = 20
"""Number of parts per cut for `ids=collaborative`, the default of P5-CID."""


@dataclass(frozen=True, kw_only=True)
class Config(generative.GeneratorConfig):
    """Settings of the generator, the optimiser and the item IDs."""

    visual: int = 2
    """Number of visual tokens per item."""
    ids: Literal["sequential", "collaborative"] = "sequential"
    """Kind of item IDs. sequential: numbers in the order of first appearance. collaborative: the
    paths of P5-CID."""
    tokens: int = 100
    """Number of ID tokens: the base of the sequential numbers, or the number of tokens of
    P5-CID."""

    def problems(self) -> list[str]:
        problems, most = super().problems(), FIRST_CODE - VISUAL
        problems += [] if 1 <= self.visual <= most else [f"visual is outside 1..{most}"]
        return problems + ([] if self.tokens > CLUSTERS else [f"tokens is not above {CLUSTERS}"])


SPACE: Final[dict[str, tuple[Any, ...]]] = generative.SPACE | {
    "visual": (1, 2, 4),
    "ids": ("sequential", "collaborative"),
    "tokens": (50, 100, 200),
}


class Pictures(nn.Module):
    """Maps image vectors to visual tokens."""

    vector_NE: torch.Tensor
    present_N: torch.Tensor

    def __init__(self, pictures: Modality, config: Config) -> None:
        super().__init__()
        vector_NE, present_N = pictures
        self.visual, self.width = config.visual, config.width
        out = config.visual * config.width
        inner = max(out // 2, 1)
        self.map = nn.Sequential(
            nn.Linear(vector_NE.shape[1], inner), nn.Tanh(), nn.Linear(inner, out), nn.RMSNorm(out)
        )
        self.none = nn.Parameter(torch.randn(out))
        self.register_buffer("vector_NE", torch.from_numpy(vector_NE))
        self.register_buffer("present_N", torch.from_numpy(present_N))

    def forward(self, item_U: torch.Tensor) -> torch.Tensor:
        """Return the visual tokens of items, [U, P, D]."""
        present_U = self.present_N[item_U]
        token_U = torch.where(present_U[:, None], self.map(self.vector_NE[item_U]), self.none)
        return token_U.view(len(item_U), self.visual, self.width)


class Network(generative.Network):
    """The generator with visual tokens in the histories."""

    def __init__(
        self,
        ids: ItemIds,
        count_N: Float32Array,
        pictures: Modality,
        places: int,
        config: Config,
    ) -> None:
        super().__init__(ids, count_N, places, config)
        self.pictures = Pictures(pictures, config)
        self.category = nn.Embedding(2, config.width)

    def fast(self) -> list[torch.Tensor]:
        """Return the embeddings, including those of the categories."""
        return [*super().fast(), self.category.weight]

    def embedded(self, source: Source) -> torch.Tensor:
        """Return the input embeddings of the encoder, [B, J, D]."""
        token_VD = self.t5.shared.weight
        place_BJ = source.token_BJ - VISUAL
        visual_BJ = (place_BJ >= 0) & (place_BJ < self.pictures.visual)
        item_U, row_X = torch.unique(source.item_BJ[visual_BJ], return_inverse=True)
        picture_UPD = self.pictures(item_U)
        token_BJ = source.token_BJ.clone()
        token_BJ[visual_BJ] = len(token_VD) + row_X * self.pictures.visual + place_BJ[visual_BJ]
        x_BJD = functional.embedding(token_BJ, torch.cat([token_VD, picture_UPD.flatten(0, 1)]))
        return x_BJD + self.word(source.word_BJ) + self.category(visual_BJ.long())


def fit(config: Config, data: Data, schedule: TrainingSchedule) -> TrainedModel:
    """Train with every item of the training part as a target, except the first of each history.

    Raises:
        UserError: the vectors do not match the catalogue, or no item has one.
    """
    device = learning.prepare(schedule)
    if config.ids == "sequential":
        paths_NL = sequential_ids(data.training, data.items, config.tokens)
    else:
        generator = np.random.default_rng(schedule.seed)
        paths_NL = collaborative_ids(data.training, data.items, CLUSTERS, config.tokens, generator)
    ids = ItemIds.of(paths_NL, config.tokens, config.visual)
    pictures = read_modalities(data)["image_embeddings"]
    network = Network(ids, generative.counts(data), pictures, data.max_history, config)
    return generative.train(network, config, data, schedule, device)


def load(config: Config, data: Data, state: State) -> generative.Generator:
    """Restore a saved model on the CPU."""
    pictures = Modality(state["pictures.vector_NE"], state["pictures.present_N"])
    ids = generative.saved_ids(state)
    network = Network(ids, state["count_N"], pictures, data.max_history, config)
    return generative.restored(network, config, state)
