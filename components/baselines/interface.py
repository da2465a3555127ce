"""What every baseline is: a module with `Config`, `SPACE`, `fit` and `load`.

    Config                             frozen dataclass, the settings of the model
    SPACE                              the values that a search may give them
    fit(config, data, course)          learns, and returns a `Fitted`
    load(config, data, state)          the model that `state` describes

A model sees the training part of the histories alone. How good it is on the validation users it
learns from `course.validate`, which answers with one number.

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
    """A model that has learned."""

    parameters: int
    """Numbers that it has learned or counted."""

    def score_all(self, histories: Sequence[Int32Array]) -> Float32Array:
        """A score of every item for each history, [B, N]; higher is better, all finite."""
        ...

    def state(self) -> State:
        """All that `load` needs besides the settings."""
        ...


class Data(NamedTuple):
    """What a model may learn from."""

    items: int
    """N, items of the catalogue."""
    training: Sequences
    """The histories without validation and test items."""
    max_history: int
    """Items of a history that are read, the last ones; `score_all` gets no longer ones."""
    given: Mapping[str, Artifact]
    """Vectors and semantic IDs, those that the registry says the model reads."""


class Course(NamedTuple):
    """How long a model may learn."""

    epochs: int
    """At most."""
    patience: int
    """Validations in a row without a better one that end the constant rate."""
    decay: float
    """Epochs in which the rate then falls to zero, as a share of those up to the best weights."""
    validate_every: int
    """Epochs between validations."""
    seed: int
    device: str
    validate: Callable[[Model], float]
    """NDCG@10 of all validation users."""
    out_of_time: Callable[[], bool] = lambda: False
    """Whether a search has used up its time."""


class Fitted(NamedTuple):
    """A model, and how it came about."""

    model: Model
    curve: Curve
    """One entry per epoch; empty where nothing is trained step by step."""
    cut: bool = False
    """Whether it ran out of time; the model is then the best up to there."""


class Baseline(Protocol):
    """The module of a model."""

    Config: type
    SPACE: Mapping[str, tuple[Any, ...]]
    fit: Callable[[Any, Data, Course], Fitted]
    load: Callable[[Any, Data, State], Model]
