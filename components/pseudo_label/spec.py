"""Declares the settings, inputs and outputs of the stage pseudo_label."""

from dataclasses import dataclass

from pydantic import NonNegativeInt, PositiveInt

from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import check
from macrec.core.settings import AutoInt, Seed, settings_class
from macrec.core.stage import Pool, Stage


@settings_class
class Settings:
    """Settings that determine the labels."""

    clusters: AutoInt = 0
    """Number of k-means clusters per modality (the paper: 512). "auto" or 0 chooses the power of
    two nearest to a twelfth of the items that have a vector, from 2 to 512. Small catalogues get
    fewer than a given number; see min_items_per_cluster."""
    min_items_per_cluster: PositiveInt = 4
    """Minimum number of distinct vectors per cluster, on average. It limits `clusters`, because a
    label that no other item shares yields no positive pair."""
    normalise: bool = True
    """Scale every vector to unit length, so that k-means follows the cosine similarity. The vectors
    should be centred first; embed_text and embed_image do that."""
    minibatch_above: NonNegativeInt = 50_000
    """Number of items above which mini-batch k-means streams the vectors. Up to it, k-means runs
    once in memory on all vectors, from a k-means++ start."""
    batch_items: PositiveInt = 8_192
    """Minimum number of items per mini-batch. The number of clusters is used if it is larger."""
    passes: PositiveInt = 5
    """Passes of mini-batch k-means over the catalogue. Each pass has a new random order."""
    max_iterations: PositiveInt = 100
    """Maximum number of iterations of in-memory k-means; it stops earlier if it converges."""
    seed: Seed = 0
    """Seed of the initial centres and of the shuffling."""

    def __post_init__(self) -> None:
        check(self.clusters != 1, "clusters=1: should be at least 2, or auto.")


@settings_class
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
    everyday=("clusters", "min_items_per_cluster", "normalise"),
)
