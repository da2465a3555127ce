"""Most popular: every user is shown the items that the training part has most often."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from components.baselines.interface import Course, Data, Fitted, Float32Array, Int32Array, State
from macrec.metrics.ranking_metrics import popularity


@dataclass(frozen=True, kw_only=True)
class Config:
    """There is nothing to set."""


SPACE: Final[dict[str, tuple[Any, ...]]] = {}


class Popular:
    """Counts of the items."""

    def __init__(self, count_N: Float32Array) -> None:
        self.count_N = count_N
        self.parameters = len(count_N)

    def score_all(self, histories: Sequence[Int32Array]) -> Float32Array:
        """The same for all."""
        return np.broadcast_to(self.count_N, (len(histories), len(self.count_N)))

    def state(self) -> State:
        """The counts."""
        return {"count": self.count_N}


def fit(config: Config, data: Data, course: Course) -> Fitted:
    """Counts."""
    return Fitted(Popular(popularity(data.training.items, data.items).astype(np.float32)), [])


def load(config: Config, data: Data, state: State) -> Popular:
    """The model that was saved."""
    return Popular(state["count"])
