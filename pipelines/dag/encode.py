"""The DAG that assigns semantic IDs to a changed catalogue with an earlier run's quantizer."""

from pathlib import Path
from typing import Any

from components.run_form import ENCODE, PREVIOUS
from components.stages import ENCODE_ITEMS
from pipelines.dag.tasks import Tasks, as_pipeline


def encode(*values: Any, embedding_shards: int = 1, resources: Path | None = None) -> None:
    """Gives semantic IDs to new and changed items; the others keep theirs."""
    tasks = Tasks(ENCODE, values, embedding_shards, resources)
    items, _, vectors = tasks.embedded()
    earlier: dict[str, Any] = {}
    for name in PREVIOUS:
        earlier |= tasks.earlier(name)
    tasks.task(ENCODE_ITEMS, "Encode items", items=items, **vectors, **earlier)


def pipeline(**options: Any) -> Any:
    """Return the KFP pipeline, whose signature is the run form.

    Args:
        **options: embedding_shards, the number of tasks that share the embedding of a modality, and
            resources, the file of CPU and memory by stage (`pipelines.dag.resources`).
    """
    return as_pipeline(encode, "macrec-encode", ENCODE, **options)
