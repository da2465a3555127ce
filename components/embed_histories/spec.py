"""What the stage embed_histories is: its settings, inputs and outputs."""

from dataclasses import dataclass

from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the vectors depend on."""

    dim: int = 64
    """Components of a vector; fewer if there are not more items than that in the training parts.
    0: off, every vector is null, and quantize goes by text and picture alone."""
    window: int = 3
    """Items at most this many places apart in a history stand near each other."""
    seed: int = 0
    """Seed of the randomised singular value decomposition."""

    def __post_init__(self) -> None:
        for name, least in {"dim": 0, "window": 1, "seed": 0}.items():
            value = getattr(self, name)
            check(value >= least, f"{name}={value}: must be at least {least}.")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Nothing to tune: one thread, for the sums of several depend on their number."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    items: Artifact
    """The catalogue."""
    sequences: Artifact
    """The users' histories; not read if dim is 0."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the stage writes."""

    history_embeddings: DatasetOutput
    """One row per item: its vector of length one, null for an item that stands near no other."""


STAGE = Stage(
    name="embed_histories",
    summary="Compute item vectors from which items stand near each other in histories.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
)
