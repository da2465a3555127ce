"""What the stage pseudo_label is: its settings, inputs and outputs."""

from dataclasses import dataclass

from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import check
from macrec.core.stage import Pool, Stage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the labels depend on."""

    clusters: int = 512
    """Clusters of each modality (the paper: 512); fewer if the catalogue cannot fill them."""
    min_items_per_cluster: int = 4
    """At most one cluster for so many distinct vectors, for a label that no other item has is
    worth nothing."""
    normalise: bool = True
    """Scale every vector to length one, so that k-means goes by the cosine. Vectors should have
    been centred before, as embed_text and embed_image do."""
    minibatch_above: int = 50_000
    """Items above which the vectors are streamed through mini-batch k-means; below, k-means runs
    on all of them in memory, once, from a k-means++ start."""
    batch_items: int = 8_192
    """Items of a mini-batch, at least; never fewer than the clusters."""
    passes: int = 5
    """Passes of mini-batch k-means over the catalogue, shuffled anew each time."""
    max_iterations: int = 100
    """Iterations of k-means, if it does not converge before."""
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
    """Nothing to tune: one thread, for the sums of several depend on their number."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    text_embeddings: Artifact
    """Text vectors of the items."""
    image_embeddings: Artifact
    """Image vectors of the items."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the stage writes."""

    pseudo_labels: DatasetOutput
    """One row per item: its text cluster and its image cluster, null without a vector."""


STAGE = Stage(
    name="pseudo_label",
    summary="Cluster the text vectors and the image vectors of the items.",
    pool=Pool.CPU,
    settings=Settings,
    execution=Execution,
    inputs=Inputs,
    outputs=Outputs,
)
