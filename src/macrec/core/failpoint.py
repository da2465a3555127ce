"""Failpoints: named places at which a test can kill the process, to check what it leaves behind.

The environment variable MACREC_FAILPOINT selects one: `manifest written`, or `part written:3` for
the third time that the process reaches it. The process then ends as after `kill -9`, without
cleanup.
"""

import os
import signal

VARIABLE = "MACREC_FAILPOINT"
OUTPUT = (
    "output emptied",
    "part begun",
    "part written",
    "file not yet renamed",
    "manifest written",
    "output finished",
)
STORE = (
    "object not yet named",
    "blob uploaded",
    "record not yet created",
    "record not yet replaced",
    "record created",
    "file restored",
    "result restored",
)
CHECKPOINT = (
    "checkpoint uploaded",
    "checkpoint sealed",
    "checkpoint file deleted",
)
CACHE = ("cache file written", "cache file uploaded", "cache file dropped")
SHARD = ("shard uploaded", "shard sealed")
POINTS = (*OUTPUT, *STORE, *CHECKPOINT, *CACHE, *SHARD)
"""All failpoints, grouped by what is being written."""


class _Chosen:
    """The failpoint that the environment selects, and how many passes remain until the kill."""

    def __init__(self, text: str) -> None:
        self.name, _, passes = text.partition(":")
        self.passes = int(passes or 1)
        assert not text or self.name in POINTS, f"{VARIABLE}: no point {self.name!r}"


_chosen = _Chosen(os.environ.get(VARIABLE, ""))


def failpoint(name: str) -> None:
    """Kill the process here if the environment selects this failpoint and its count is reached."""
    if name == _chosen.name:
        _chosen.passes -= 1
        if _chosen.passes == 0:
            os.kill(os.getpid(), signal.SIGKILL)
