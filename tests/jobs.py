"""What a stage is given, in the order of its arguments."""

from typing import Any

from macrec.core.stage import Job


def job(settings: Any, inputs: Any, outputs: Any, execution: Any, **folders: Any) -> Job:
    """Return a job; `folders` are its checkpoint_uri and the like."""
    return Job(settings=settings, inputs=inputs, outputs=outputs, execution=execution, **folders)
