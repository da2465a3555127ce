"""Computes digests of all external data, so that new data causes a new run.

KFP's cache compares parameter values, not contents. This cheap stage is never cached. Its digests
are parameters of the stages that read the data, so the cache hits only if the data is the same.
"""

import dataclasses

from components.snapshot_catalog.spec import Execution, Inputs, Outputs, Settings
from macrec.core.artifact import ParameterOutput, Source
from macrec.core.stage import Job, Metrics


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Write the digest of every input."""
    for field in dataclasses.fields(job.inputs):
        source: Source | None = getattr(job.inputs, field.name)
        output: ParameterOutput = getattr(job.outputs, f"{field.name}_digest")
        output.write_text(source.digest if source else "")
    return {}
