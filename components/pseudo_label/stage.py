"""Stage pseudo_label: clusters the text vectors and the image vectors of the items by k-means.

Two items with the same label are a positive pair for the other modality in quantize (MACRec, sec.
2).
"""

import numpy as np
import pyarrow as pa

from components.pseudo_label.clustering import cluster
from components.pseudo_label.spec import Execution, Inputs, Outputs, Settings
from macrec.core.errors import check
from macrec.core.stage import Job, Metrics
from macrec.data import schema
from macrec.data.columns import valid_rows
from macrec.data.vectors import read_vectors

MODALITIES = ("text", "image")


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Cluster each modality independently.

    Raises:
        UserError: the artifacts differ in length, no item has a vector, or vectors are not finite.
    """
    artifacts = {m: getattr(job.inputs, f"{m}_embeddings") for m in MODALITIES}
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
    metrics: Metrics = {}
    for modality, artifact in artifacts.items():
        valid_N = valid[modality]
        vectors = read_vectors(artifact)
        clustering = cluster(vectors.matrix_NE, valid_N, job.settings, modality)
        columns[f"{modality}_label"] = pa.array(clustering.labels_N, mask=~valid_N)
        sizes = np.bincount(clustering.labels_N[valid_N], minlength=1)
        metrics |= {
            f"{modality}_items": float(valid_N.sum()),
            f"{modality}_clusters": float(clustering.clusters),
            f"{modality}_clusters_used": float((sizes > 0).sum()),
            f"{modality}_largest_share": float(sizes.max() / max(valid_N.sum(), 1)),
            f"{modality}_inertia": clustering.inertia,
        }
    with job.outputs.pseudo_labels.dataset(schema.PSEUDO_LABELS) as out:
        out.write(pa.table(columns))
    return metrics
