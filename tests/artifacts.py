"""Committed artifacts for tests of stages."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from macrec.core.artifact import Artifact, DatasetOutput
from macrec.data import schema


def dataset(path: Path, kind: pa.Schema, columns: Any, **metadata: Any) -> Artifact:
    """An artifact of the columns (by name, or in the order of the schema), as a stage leaves it."""
    output = DatasetOutput(path)
    output.prepare()
    with output.dataset(kind) as out:
        out.write(pa.table(columns, schema=kind))
    output.metadata = metadata
    output.commit({"stage": path.name, "config": {"colour": "blue"}})
    return Artifact.open(path)


def sequences_of(path: Path, lists: list[list[int]]) -> Artifact:
    """The items of each user in time order, as the stage prepare_data leaves them."""
    users = [f"user {u}" for u in range(len(lists))]
    return dataset(path, schema.SEQUENCES, [users, lists, [None] * len(lists)])


def predictions(path: Path, rows: list[tuple[Any, ...]], top_k: int = 20) -> Artifact:
    """Rows (user, system, target, items, scores), as the stage evaluate leaves them."""
    output = DatasetOutput(path)
    output.prepare()
    columns = [list(column) for column in zip(*rows, strict=True)]
    with output.dataset(schema.PREDICTIONS) as out:
        out.write(pa.table(columns, schema=schema.PREDICTIONS))
    output.commit({"stage": "evaluate", "config": {"top_k": top_k}})
    return Artifact.open(path)
