"""Start a stage in several processes on this machine, as torchrun does.

The command of a container is fixed when the pipeline is compiled. The number of its GPUs is fixed
only when a run is submitted. Therefore the stage's own command starts itself several times if its
number of processes is above 1.

torchrun alone does not suffice. It exits with code 1 whatever the exit codes of its processes, but
a user error or a preemption is recognised by its exit code.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from signal import SIGTERM
from typing import NoReturn

import torch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from macrec.core.errors import EXIT_PREEMPTED, EXIT_TRY_AGAIN, EXIT_USER_ERROR, UserError
from macrec.core.progress import log

SECONDS_TO_LEAVE = "120"
"""Seconds that processes have for a last checkpoint after they were asked to end. Kubernetes kills
them earlier, after 30 s."""


def launch(module: str, argv: Sequence[str], count: int, device: str = "auto") -> None:
    """Run `python -m MODULE ARGV...` in connected processes, and forward signals to them.

    Args:
        module: the module that runs the stage.
        argv: its arguments; every process gets them.
        count: number of processes; each has its own GPU if the machine has GPUs.
        device: the stage's `device` setting; with "cpu" no GPUs are required.

    Raises:
        UserError: the machine has GPUs, but fewer than `count`.
        SystemExit: a process failed, or this one was asked to end. The exit code is the one that
            the stage would have in a single process.
    """
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if 0 < gpus < count:
        raise UserError(
            f"{count} processes for {gpus} GPUs, and each needs its own. Give `processes` (of a "
            f"pipeline: `cluster_gpu_count`) {gpus} or less."
        )
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # torchrun's default is 1
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SECONDS_TO_LEAVE)
    place = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(count)]
    log.info("%s: in %d processes", module, count)
    try:
        torchrun.run(torchrun.parse_args([*place, "-m", module, *argv]))
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        _end_as({rank: failure.exitcode for rank, failure in error.failures.items()})


def _end_as(codes: dict[int, int]) -> NoReturn:
    listed = ", ".join(f"{rank}: {code}" for rank, code in sorted(codes.items()))
    log.error("exit codes of the processes that failed: %s", listed)
    sys.exit(exit_code(codes.values()))


def exit_code(codes: Iterable[int]) -> int:
    """Return one exit code for all processes, from their codes other than 0.

    A negative code means that the process was killed by that signal. When one process fails, the
    others are asked to end or lose the connection, so their codes are less informative.
    """
    found = set(codes)
    for telling in (EXIT_USER_ERROR, EXIT_TRY_AGAIN):
        if telling in found:
            return telling
    return EXIT_PREEMPTED if found <= {EXIT_PREEMPTED, -SIGTERM} else 1
