"""Declares the settings, inputs and outputs of the stage embed_histories."""

from dataclasses import dataclass

from pydantic import NonNegativeInt, PositiveInt

from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.settings import Seed, settings_class
from macrec.core.stage import Pool, Stage


@settings_class
class Settings:
    """Settings that determine the vectors."""

    dim: NonNegativeInt = 64
    """Components of a history vector. Fewer are used if the training histories contain too few
    items. 0 turns the stage off: all vectors are null, and quantize uses text and image alone."""
    window: PositiveInt = 3
    """Two items co-occur if they are at most this many positions apart in a history."""
    seed: Seed = 0
    """Seed of the randomised singular value decomposition."""


@settings_class
class Execution:
    """Settings that affect only the speed; this stage has none.

    It uses one thread, because sums over several threads depend on their number.
    """


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The artifacts that the stage reads."""

    items: Artifact
    """The catalogue."""
    sequences: Artifact
    """The users' histories; not read if dim is 0."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The artifacts that the stage writes."""

    history_embeddings: DatasetOutput
    """One row per item with its vector of unit length; null for an item that co-occurs with no
    other."""


STAGE = Stage(
    name="embed_histories",
    summary="Compute item vectors from which items stand near each other in histories.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
    everyday=("dim", "window"),
)
