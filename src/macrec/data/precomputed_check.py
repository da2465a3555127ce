"""Checks precomputed vectors before a run: format, dimension, overlap of ids, NaN."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from macrec.core.artifact import Source
from macrec.core.errors import UserError
from macrec.data.embeddings import (
    FIRST,
    OK,
    REMEDY_PRECOMPUTED,
    PrecomputedReading,
    describe_unusable,
    explain_unusable,
    mark_unusable,
)


class VectorCheck(NamedTuple):
    """What a check of precomputed vectors found."""

    problems: list[str]
    warnings: list[str]
    summary: str
    """A line to print: how many items have a vector; empty if the file cannot be used."""


def check_precomputed(name: str, source: Source, ids: pa.Array) -> VectorCheck:
    """Read precomputed vectors once and check them as the embedding stages do.

    Args:
        name: the setting that names the file, such as vectors_text.
        source: the file or folder of files.
        ids: ids of the items.
    """
    reading = PrecomputedReading(source, ids)
    first: dict[str, str] = {}
    bad = 0
    try:
        for rows, vectors_BD in reading.batches():
            status = np.full(len(rows), OK, object)
            mark_unusable(vectors_BD, status)
            unusable = np.flatnonzero(status != OK)
            bad += len(unusable)
            for row in unusable[: FIRST - len(first)].tolist():
                first[ids[int(rows[row])].as_py()] = str(status[row])
    except UserError as error:
        return VectorCheck([f"{name}={error}"], [], "")
    total = int(reading.present.sum())
    start = f"{name}={source.uri}"
    problems, warnings = list[str](), list[str]()
    if problem := explain_unusable(first, bad, total, REMEDY_PRECOMPUTED):
        problems.append(f"{start}: {problem}")
    elif bad:
        warnings.append(f"{start}: {describe_unusable(first, bad, total)} They become null.")
    if reading.unknown:
        warnings.append(f"{start}: {reading.unknown:,} vectors of unknown items are left out.")
    summary = (
        f"{name}: {total:,} of {len(ids):,} items have a vector ({total / max(len(ids), 1):.1%}), "
        f"{reading.dim:,} components"
    )
    return VectorCheck(problems, warnings, summary)
