"""Real stage processes under a memory limit, and the most memory that they held."""

import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20


class Ended(NamedTuple):
    """How a stage's process ended."""

    code: int
    log: str
    peak: int
    """Bytes of memory that it held at most (VmHWM; of a child's `ru_maxrss` the parent is part)."""
    processor: float
    """Seconds of processor time: what the machine is busy with otherwise does not count."""


def run_stage(
    name: str, folder: Path, *arguments: object, limit: int = 0, seconds: float = 120
) -> Ended:
    """Runs `python -m components NAME` to its end.

    Args:
        name: the stage.
        folder: where its log goes.
        arguments: its command line.
        limit: address space in bytes (RLIMIT_AS), 0 for as much as there is.
        seconds: after which it is killed, and the test fails.
    """
    command = [sys.executable, "-m", "components", name, *map(str, arguments)]
    return run_limited(command, folder, limit, seconds)


def run_limited(command: list[str], folder: Path, limit: int, seconds: float) -> Ended:
    """Any command, as `run_stage` runs a stage."""
    path = folder / "log.txt"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started, before, peak = time.monotonic(), _processor(), 0
    with path.open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        if limit:
            resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
        while process.poll() is None:
            peak = max(peak, _most_held(process.pid))
            if time.monotonic() - started > seconds:
                process.kill()
                process.wait()
                raise AssertionError(f"still running after {seconds} s: {path.read_text()}")
            time.sleep(0.01)
    return Ended(process.returncode, path.read_text(), peak, _processor() - before)


def idle_peak(folder: Path, *modules: str) -> int:
    """Return the bytes that a process holds at most that only imports modules.

    A PyTorch that is built for CUDA takes several hundred MiB more than one that is not.
    """
    program = f"import {', '.join(modules)}; print(open('/proc/self/status').read())"
    ended = run_limited([sys.executable, "-c", program], folder, limit=0, seconds=120)
    assert ended.code == 0, ended.log
    return _peak_in(ended.log)


def _most_held(pid: int) -> int:
    try:
        return _peak_in(Path(f"/proc/{pid}/status").read_text())
    except OSError:  # it has just ended
        return 0


def _peak_in(status: str) -> int:
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def _processor() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
