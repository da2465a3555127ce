"""P5-CID: Hua et al. 2023, "How to index item IDs for recommendation foundation models"
(SIGIR-AP), collaborative indexing.

Items are written as the path to them in a tree of spectral clusters of the co-occurrence graph of
the training part (`collaborative_ids.py`), and a T5 that reads the paths of a history writes that
of the next item (`generative.py`).

Where it departs: our own small T5, trained from random weights on the one task of the next item and
on its tokens alone, where the paper fine-tunes a pre-trained T5 on prompts in English. What a
constrained beam search of `beams` beams does not find follows in the order of popularity; where the
tree has so few inner nodes that decoding each takes no longer, every item is scored instead.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from components.baselines import generative, learning
from components.baselines.collaborative_ids import collaborative_ids
from components.baselines.interface import Course, Data, Fitted, State


@dataclass(frozen=True, kw_only=True)
class Config(generative.GeneratorConfig):
    """What the generator is, how it steps, and how the items are cut into clusters."""

    clusters: int = 20
    """Parts that a cluster is cut into."""
    tokens: int = 100
    """Tokens that there are for clusters and items; a cluster of more items is cut again."""

    def problems(self) -> list[str]:
        problems = super().problems()
        problems += [] if self.clusters >= 2 else ["clusters is below 2"]
        return problems + ([] if self.clusters < self.tokens else ["clusters is not below tokens"])


SPACE: Final[dict[str, tuple[Any, ...]]] = generative.SPACE | {
    "clusters": (10, 20, 30),
    "tokens": (50, 100, 200, 500),
}


def fit(config: Config, data: Data, course: Course) -> Fitted:
    """Clusters the items, then trains on every item of the training part but the first of each."""
    device, generator = learning.prepare(course), np.random.default_rng(course.seed)
    paths_NL = collaborative_ids(
        data.training, data.items, config.clusters, config.tokens, generator
    )
    ids = generative.ItemIds.of(paths_NL, config.tokens)
    network = generative.Network(ids, generative.counts(data), data.max_history, config)
    return generative.train(network, config, data, course, device)


def load(config: Config, data: Data, state: State) -> generative.Generator:
    """The model that was saved, on a CPU."""
    ids = generative.saved_ids(state)
    network = generative.Network(ids, state["count_N"], data.max_history, config)
    return generative.restored(network, config, state)
