"""embed_histories: gives each item a vector of what stands near it in the users' histories.

Only the training part of a history is read: all but its last two items, which are the targets of
validation and test.
"""

import sys
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from macrec.core import stage
from macrec.core.artifact import Artifact, DatasetOutput
from macrec.core.errors import check
from macrec.data import schema
from macrec.data.columns import vector_column


@dataclass(frozen=True, kw_only=True)
class Config:
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


def run(config: Config, inputs: Inputs, outputs: Outputs, execution: Execution) -> stage.Metrics:
    """Counts neighbours in the histories and factorises what they say of each other.

    Raises:
        UserError: an interaction names an item outside the catalogue.
    """
    from components.embed_histories.history_vectors import embed, no_vectors

    ids = inputs.items.table(["item_id"]).column(0)
    if config.dim:
        found = embed(inputs.sequences, len(ids), config)
    else:
        stage.log.info("embed_histories: off (dim=0), no item gets a vector")
        found = no_vectors(np.zeros(len(ids), np.int64))
    columns = {
        "item_index": pa.array(np.arange(len(ids), dtype=np.int32)),
        "item_id": ids,
        "embedding": vector_column(found.matrix_ND, found.valid_N),
        "met": pa.array(np.minimum(found.met_N, np.iinfo(np.int32).max).astype(np.int32)),
    }
    with outputs.history_embeddings.dataset(schema.histories(found.matrix_ND.shape[1])) as out:
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


if __name__ == "__main__":
    stage.main(sys.modules[__name__])
