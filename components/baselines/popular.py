"""Most popular: recommends the most frequent items of the training part to every user."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from components.baselines.interface import (
    Data,
    Float32Array,
    Int32Array,
    State,
    TrainedModel,
    TrainingSchedule,
)
from macrec.metrics.ranking_metrics import popularity


@dataclass(frozen=True, kw_only=True)
class Config:
    """The model has no settings."""


SPACE: Final[dict[str, tuple[Any, ...]]] = {}


class Popular:
    """Interaction counts of the items as a baseline model."""

    def __init__(self, count_N: Float32Array) -> None:
        self.count_N = count_N
        self.parameters = len(count_N)

    def score_all(self, histories: Sequence[Int32Array]) -> Float32Array:
        """Return the counts, which are the same for every history, [B, N]."""
        return np.broadcast_to(self.count_N, (len(histories), len(self.count_N)))

    def state(self) -> State:
        """Return the counts."""
        return {"count": self.count_N}


def fit(config: Config, data: Data, schedule: TrainingSchedule) -> TrainedModel:
    """Count the training interactions of each item."""
    return TrainedModel(Popular(popularity(data.training.items, data.items).astype(np.float32)), [])


def load(config: Config, data: Data, state: State) -> Popular:
    """Restore a saved model."""
    return Popular(state["count"])
