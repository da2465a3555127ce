"""Committed artifacts for tests of stages."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from macrec.artifact import Artifact, DatasetOutput


def dataset(path: Path, kind: pa.Schema, columns: Any, **metadata: Any) -> Artifact:
    """An artifact of the columns (by name, or in the order of the schema), as a stage leaves it."""
    output = DatasetOutput(path)
    output.prepare()
    with output.dataset(kind) as out:
        out.write(pa.table(columns, schema=kind))
    output.metadata = metadata
    output.commit({"stage": path.name, "config": {"colour": "blue"}})
    return Artifact.open(path)
