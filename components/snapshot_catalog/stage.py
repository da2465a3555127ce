"""Digests of everything the run reads from outside, so that new data makes a new run.

KFP's cache compares parameter values, not contents. This cheap stage is never cached; its digests
are parameters of the stages that read the data: the same data hit the cache, new data miss it.
"""

import dataclasses

from components.snapshot_catalog.spec import Execution, Inputs, Outputs, Settings
from macrec.core.artifact import ParameterOutput, Source
from macrec.core.stage import Job, Metrics


def run(job: Job[Settings, Inputs, Outputs, Execution]) -> Metrics:
    """Writes the digest of every input."""
    for field in dataclasses.fields(job.inputs):
        source: Source | None = getattr(job.inputs, field.name)
        output: ParameterOutput = getattr(job.outputs, f"{field.name}_digest")
        output.write_text(source.digest if source else "")
    return {}
