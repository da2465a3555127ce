"""pseudo_label: clusters the text vectors and the image vectors of the items, each by k-means.

Two items with one label are a positive pair for the other modality in quantize (MACRec, sec. 2).
"""

import sys
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from macrec.core import stage
from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import check
from macrec.data import schema
from macrec.data.columns import valid_rows

MODALITIES = ("text", "image")


@dataclass(frozen=True, kw_only=True)
class Config:
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


def run(config: Config, inputs: Inputs, outputs: Outputs, execution: Execution) -> stage.Metrics:
    """Clusters each modality by itself.

    Raises:
        UserError: the artifacts differ in length, no item has a vector, or vectors are not finite.
    """
    from components.pseudo_label.clustering import cluster
    from macrec.data.vectors import read_vectors

    artifacts = {m: getattr(inputs, f"{m}_embeddings") for m in MODALITIES}
    rows = {m: artifact.rows for m, artifact in artifacts.items()}
    check(
        rows["text"] == rows["image"],
        f"pseudo_label: {rows['text']:,} text vectors but {rows['image']:,} image vectors. "
        "Give the artifacts of one run.",
    )
    valid = {m: valid_rows(artifact) for m, artifact in artifacts.items()}
    check(
        any(valid_N.any() for valid_N in valid.values()),
        f"pseudo_label: none of {rows['text']:,} items has a text or an image vector. Give "
        "embed_text or embed_image a model or ready embeddings.",
    )
    columns = {"item_index": pa.array(np.arange(rows["text"], dtype=np.int32))}
    metrics: stage.Metrics = {}
    for modality, artifact in artifacts.items():
        valid_N = valid[modality]
        vectors = read_vectors(artifact)
        clustering = cluster(vectors.matrix_NE, valid_N, config, modality)
        columns[f"{modality}_label"] = pa.array(clustering.labels_N, mask=~valid_N)
        sizes = np.bincount(clustering.labels_N[valid_N], minlength=1)
        metrics |= {
            f"{modality}_items": float(valid_N.sum()),
            f"{modality}_clusters": float(clustering.clusters),
            f"{modality}_clusters_used": float((sizes > 0).sum()),
            f"{modality}_largest_share": float(sizes.max() / max(valid_N.sum(), 1)),
            f"{modality}_inertia": clustering.inertia,
        }
    with outputs.pseudo_labels.dataset(schema.PSEUDO_LABELS) as out:
        out.write(pa.table(columns))
    return metrics


if __name__ == "__main__":
    stage.main(sys.modules[__name__])
