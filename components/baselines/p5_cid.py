"""P5-CID: Hua et al. 2023, "How to index item IDs for recommendation foundation models" (SIGIR-AP),
collaborative indexing.

The ID of an item is its path in a tree of spectral clusters (`collaborative_ids.py`). The clusters
are those of the co-occurrence graph of the training part. A T5 reads the IDs of a history and
generates the ID of the next item (`generative.py`).

Differences from the paper: a small T5 is trained from random weights on next-item prediction with
ID tokens only. The paper fine-tunes a pre-trained T5 on English prompts. Items that a constrained
beam search with `beams` beams does not find are ranked by popularity after the others. If the tree
has so few inner nodes that scoring all of them is no slower, every item is scored instead.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from components.baselines import generative, learning
from components.baselines.collaborative_ids import collaborative_ids
from components.baselines.interface import Data, State, TrainedModel, TrainingSchedule


@dataclass(frozen=True, kw_only=True)
class Config(generative.GeneratorConfig):
    """Settings of the generator, the optimiser and the clustering of the items."""

    clusters: int = 20
    """Number of parts that a cluster is split into."""
    tokens: int = 100
    """Number of tokens for clusters and items. A cluster with more items is split again."""

    def problems(self) -> list[str]:
        problems = super().problems()
        problems += [] if self.clusters >= 2 else ["clusters is below 2"]
        return problems + ([] if self.clusters < self.tokens else ["clusters is not below tokens"])


SPACE: Final[dict[str, tuple[Any, ...]]] = generative.SPACE | {
    "clusters": (10, 20, 30),
    "tokens": (50, 100, 200, 500),
}


def fit(config: Config, data: Data, schedule: TrainingSchedule) -> TrainedModel:
    """Cluster the items and train the generator.

    Every item of the training part is a target, except the first of each history.
    """
    device, generator = learning.prepare(schedule), np.random.default_rng(schedule.seed)
    paths_NL = collaborative_ids(
        data.training, data.items, config.clusters, config.tokens, generator
    )
    ids = generative.ItemIds.of(paths_NL, config.tokens)
    network = generative.Network(ids, generative.counts(data), data.max_history, config)
    return generative.train(network, config, data, schedule, device)


def load(config: Config, data: Data, state: State) -> generative.Generator:
    """Restore a saved model on the CPU."""
    ids = generative.saved_ids(state)
    network = generative.Network(ids, state["count_N"], data.max_history, config)
    return generative.restored(network, config, state)
