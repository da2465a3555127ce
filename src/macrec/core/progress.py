"""Rate-limited progress lines: readable on a terminal and in a pod's log."""

import logging
import os
import time
from collections.abc import Callable

log = logging.getLogger("macrec")


class Progress:
    """Logs lines `what: done/total unit, rate, time left`, at most one per interval.

    The environment variable MACREC_PROGRESS_SECONDS sets the interval (default: 30 s).
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "items",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.unit, self._clock = what, total, unit, clock
        self.done = 0
        self._started = self._reported = clock()
        self._interval = float(os.environ.get("MACREC_PROGRESS_SECONDS", "30"))

    def advance(self, count: int, note: str = "") -> None:
        """Count finished work, and log a line with `note` appended if one is due."""
        self.done += count
        if self._clock() - self._reported >= self._interval:
            self._report(note)

    def close(self) -> None:
        """Log a final line if at least one line was logged before."""
        if self._reported > self._started:
            self._report()

    def _report(self, note: str = "") -> None:
        self._reported = self._clock()
        rate = self.done / max(self._reported - self._started, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        log.info(
            "%s: %s/%s %s, %.1f/s, %.0f s left%s",
            self.what,
            f"{self.done:,}",
            f"{self.total:,}",
            self.unit,
            rate,
            left,
            f", {note}" if note else "",
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
