"""Joins the processes that torchrun started; without torchrun, a stage runs in one process.

The exchanges between processes need torch, which takes seconds to load. A stage whose result is
reused must not wait for it, so torch is loaded for several processes only.
"""

import os

from macrec.core.processes import ALONE, Processes


def is_launched() -> bool:
    """Return whether torchrun or `macrec.core.launch` started this process."""
    return "WORLD_SIZE" in os.environ


def join_processes() -> Processes:
    """Join and return the processes that torchrun started; without torchrun, this one alone."""
    if not _are_several():
        return ALONE
    from macrec.core import process_group

    return process_group.join()


def leave_processes() -> None:
    """Leave the processes that torchrun started, if there are any."""
    if _are_several():
        from macrec.core import process_group

        process_group.leave()


def _are_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
