"""Declares the settings, inputs and outputs of the stage pseudo_label."""

from dataclasses import dataclass

from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that determine the labels."""

    clusters: int = 512
    """Number of k-means clusters per modality (the paper: 512). Small catalogues get fewer; see
    min_items_per_cluster."""
    min_items_per_cluster: int = 4
    """Minimum number of distinct vectors per cluster, on average. It limits `clusters`, because a
    label that no other item shares yields no positive pair."""
    normalise: bool = True
    """Scale every vector to unit length, so that k-means follows the cosine similarity. The vectors
    should be centred first; embed_text and embed_image do that."""
    minibatch_above: int = 50_000
    """Number of items above which mini-batch k-means streams the vectors. Up to it, k-means runs
    once in memory on all vectors, from a k-means++ start."""
    batch_items: int = 8_192
    """Minimum number of items per mini-batch. The number of clusters is used if it is larger."""
    passes: int = 5
    """Passes of mini-batch k-means over the catalogue. Each pass has a new random order."""
    max_iterations: int = 100
    """Maximum number of iterations of in-memory k-means; it stops earlier if it converges."""
    seed: int = 0
    """Seed of the initial centres and of the shuffling."""

    def __post_init__(self) -> None:
        lowest = {"clusters": 2, "minibatch_above": 0, "seed": 0}
        positive = ("min_items_per_cluster", "batch_items", "passes", "max_iterations")
        for name, least in [*lowest.items(), *((name, 1) for name in positive)]:
            value = getattr(self, name)
            check(value >= least, f"{name}={value}: must be at least {least}.")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Settings that affect only the speed; this stage has none.

    It uses one thread, because sums over several threads depend on their number.
    """


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The artifacts that the stage reads."""

    text_embeddings: Artifact
    """Text vectors of the items."""
    image_embeddings: Artifact
    """Image vectors of the items."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The artifacts that the stage writes."""

    pseudo_labels: DatasetOutput
    """One row per item with its text cluster and its image cluster; null where it has no vector."""


STAGE = Stage(
    name="pseudo_label",
    summary="Cluster the text vectors and the image vectors of the items.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
)
