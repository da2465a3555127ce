"""Whether a file was opened, by any process: asked of the kernel (inotify)."""

import ctypes
import os
from pathlib import Path

IN_OPEN = 0x20


class Watch:
    """Notices openings of some files from its creation on."""

    def __init__(self, *paths: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._queue = libc.inotify_init1(os.O_NONBLOCK)
        assert self._queue >= 0, os.strerror(ctypes.get_errno())
        for path in paths:
            assert libc.inotify_add_watch(self._queue, os.fsencode(path), IN_OPEN) > 0, path

    def opened(self) -> bool:
        """Whether one of them was opened since the last call."""
        try:
            return bool(os.read(self._queue, 4096))
        except BlockingIOError:
            return False
