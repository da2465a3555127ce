"""The interface of a baseline: a module with `Config`, `SPACE`, `fit` and `load`.

    Config                             frozen dataclass with the settings of the model
    SPACE                              candidate values of each setting, for the search
    fit(config, data, schedule)          trains the model and returns a `TrainedModel`
    load(config, data, state)          restores the model from `state`

A model sees only the training part of the histories. `schedule.validate` returns its NDCG@10 on the
validation users, and nothing else about them.

Shape suffixes: B users of a batch, N items.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from macrec.core.artifact import Artifact
from macrec.data.sequences import Sequences

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
State = dict[str, npt.NDArray[Any]]
Curve = list[dict[str, float]]


class Model(Protocol):
    """A trained model."""

    parameters: int
    """Number of trained weights or stored counts."""

    def score_all(self, histories: Sequence[Int32Array]) -> Float32Array:
        """Return a finite score of every item for each history, [B, N]. Higher is better."""
        ...

    def state(self) -> State:
        """Return the arrays that `load` needs in addition to the settings."""
        ...


class Data(NamedTuple):
    """Data that a model may be trained on."""

    items: int
    """N, the number of items in the catalogue."""
    training: Sequences
    """The histories without their validation and test items."""
    max_history: int
    """Number of most recent items of a history that a model reads. `score_all` never receives a
    longer history."""
    given: Mapping[str, Artifact]
    """The artifacts that the model reads according to `ENTRIES`: vectors or semantic IDs, by
    name."""


class TrainingSchedule(NamedTuple):
    """The training schedule of a model."""

    epochs: int
    """Maximum number of epochs at the constant learning rate."""
    patience: int
    """Number of consecutive validations without improvement that ends the constant learning
    rate."""
    decay: float
    """Length of the linear decay of the learning rate to zero. It is a fraction of the number of
    epochs up to the best weights."""
    validate_every: int
    """Number of epochs between validations."""
    seed: int
    device: str
    validate: Callable[[Model], float]
    """Return the mean NDCG@10 of all validation users."""
    out_of_time: Callable[[], bool] = lambda: False
    """Return whether the time limit of a search has passed."""


class TrainedModel(NamedTuple):
    """A trained model and its learning curve."""

    model: Model
    curve: Curve
    """One entry per epoch; empty for a model that is not trained step by step."""
    cut: bool = False
    """Whether the time limit stopped the training. The model then has the best weights up to that
    point."""


class Baseline(Protocol):
    """The interface of a model's module."""

    Config: type
    SPACE: Mapping[str, tuple[Any, ...]]
    fit: Callable[[Any, Data, TrainingSchedule], TrainedModel]
    load: Callable[[Any, Data, State], Model]
