"""Stage embed_histories: computes item vectors from co-occurrence in the users' histories.

Only the training part of a history is read: all but its last two items, which are the validation
and test targets.
"""

import numpy as np
import pyarrow as pa

from components.embed_histories.history_vectors import embed, no_vectors
from components.embed_histories.spec import Execution, Inputs, Outputs, Settings
from macrec.core.progress import log
from macrec.core.stage import Job, Metrics
from macrec.data import schema
from macrec.data.columns import vector_column


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Count co-occurring items in the histories and factorise their mutual information.

    Raises:
        UserError: an interaction names an item outside the catalogue.
    """
    ids = job.inputs.items.table(["item_id"]).column(0)
    if job.settings.dim:
        found = embed(job.inputs.sequences, len(ids), job.settings)
    else:
        log.info("embed_histories: off (dim=0), no item gets a vector")
        found = no_vectors(np.zeros(len(ids), np.int64))
    columns = {
        "item_index": pa.array(np.arange(len(ids), dtype=np.int32)),
        "item_id": ids,
        "embedding": vector_column(found.matrix_ND, found.valid_N),
        "met": pa.array(np.minimum(found.met_N, np.iinfo(np.int32).max).astype(np.int32)),
    }
    with job.outputs.history_embeddings.dataset(schema.histories(found.matrix_ND.shape[1])) as out:
        out.write(pa.table(columns))
    return {
        "items": float(len(ids)),
        "items_met": float((found.met_N > 0).sum()),
        "items_without": float((~found.valid_N).sum()),
        "interactions": float(found.interactions),
        "pairs": float(found.pairs),
        "dim": float(found.matrix_ND.shape[1] if found.valid_N.any() else 0),
        "energy": found.energy,
    }
