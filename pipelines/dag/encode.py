"""The DAG that gives semantic IDs to a changed catalogue, with the quantizer of an earlier run."""

from typing import Any

from kfp import dsl

from components.stages import ENCODE_ITEMS
from pipelines.dag.run_form import PREVIOUS, encode_parameters
from pipelines.dag.tasks import Tasks, as_pipeline


def encode(*values: Any, embedding_shards: int = 1) -> None:
    """Gives semantic IDs to new and changed items; the others keep theirs."""
    run = dict(zip(encode_parameters(), values, strict=True))
    given = {name: value for name, value in run.items() if name not in PREVIOUS.values()}
    tasks = Tasks(given, embedding_shards)
    # A new item has no interactions yet, so nothing is dropped for their lack.
    items, _, vectors = tasks.embedded(min_interactions=0)
    previous = {name: _imported(run[uri], name) for name, uri in PREVIOUS.items()}
    tasks.task(ENCODE_ITEMS, "Encode items", items=items, **vectors, **previous)


def _imported(uri: Any, name: str) -> Any:
    """An artifact that an earlier run has left."""
    # Imported anew each time, so that KFP's cache does not take another content for the same URI.
    task = dsl.importer(artifact_uri=uri, artifact_class=dsl.Artifact, reimport=True)
    return task.set_display_name(name.replace("_", " ").capitalize()).output


def pipeline(**options: int) -> Any:
    """The pipeline, with the run parameters as its signature; embedding_shards is an option."""
    return as_pipeline(encode, "macrec-encode", encode_parameters(), **options)
