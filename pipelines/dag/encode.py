"""The DAG that assigns semantic IDs to a changed catalogue with an earlier run's quantizer."""

from pathlib import Path
from typing import Any

from kfp import dsl

from components.stages import ENCODE_ITEMS
from pipelines.dag.run_form import PREVIOUS, encode_parameters
from pipelines.dag.tasks import Tasks, as_pipeline


def encode(*values: Any, embedding_shards: int = 1, resources: Path | None = None) -> None:
    """Gives semantic IDs to new and changed items; the others keep theirs."""
    run = dict(zip(encode_parameters(), values, strict=True))
    given = {name: value for name, value in run.items() if name not in PREVIOUS.values()}
    tasks = Tasks(given, embedding_shards, resources)
    # New items have no interactions yet, so no item is dropped for having too few.
    items, _, vectors = tasks.embedded(min_interactions=0)
    previous = {name: _imported(run[uri], name) for name, uri in PREVIOUS.items()}
    tasks.task(ENCODE_ITEMS, "Encode items", items=items, **vectors, **previous)


def _imported(uri: Any, name: str) -> Any:
    """Import an artifact of an earlier run."""
    # KFP caches an import by URI only, so without reimport changed content would go unnoticed.
    task = dsl.importer(artifact_uri=uri, artifact_class=dsl.Artifact, reimport=True)
    return task.set_display_name(name.replace("_", " ").capitalize()).output


def pipeline(**options: Any) -> Any:
    """Return the KFP pipeline, whose signature is the run parameters.

    Args:
        **options: embedding_shards, the number of tasks that share the embedding of a modality, and
            resources, the file of CPU and memory by stage (`pipelines.dag.resources`).
    """
    return as_pipeline(encode, "macrec-encode", encode_parameters(), **options)
