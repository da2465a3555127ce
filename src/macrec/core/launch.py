"""Starts a stage in several processes on this machine, as torchrun does.

The command of a container is fixed when the pipeline is compiled, the number of its GPUs when a run
is submitted. So a stage's own command, told a number above 1, starts itself that many times.

torchrun alone would not do: it ends with exit code 1 whatever its processes ended with, and a user
error or a preemption is told by its code.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from signal import SIGTERM
from typing import NoReturn

from macrec.core.errors import EXIT_PREEMPTED, EXIT_TRY_AGAIN, EXIT_USER_ERROR, UserError
from macrec.core.progress import log

SECONDS_TO_LEAVE = "120"
"""What processes that were asked to end may take for a last checkpoint, where nobody kills them
earlier (Kubernetes: after 30 s)."""


def launched() -> bool:
    """Whether this is one of several processes that somebody has started."""
    return "WORLD_SIZE" in os.environ


def launch(module: str, argv: Sequence[str], count: int, device: str = "auto") -> None:
    """Runs `python -m MODULE ARGV...` in processes that find each other; passes signals on to them.

    Args:
        module: the stage's main.
        argv: its arguments, which each process gets.
        count: how many processes; each has a GPU of its own where there are any.
        device: the stage's setting; with "cpu" no GPU is asked for.

    Raises:
        UserError: there are GPUs here, but fewer than processes.
        SystemExit: a process failed, or this one was asked to end; with the exit code that the
            stage would have alone.
    """
    import torch
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if 0 < gpus < count:
        raise UserError(
            f"{count} processes for {gpus} GPUs, and each needs its own. Give `processes` (of a "
            f"pipeline: `gpu_count`) {gpus} or less."
        )
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # else torchrun says 1
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
    told = ", ".join(f"{rank}: {code}" for rank, code in sorted(codes.items()))
    log.error("exit codes of the processes that failed: %s", told)
    sys.exit(exit_code(codes.values()))


def exit_code(codes: Iterable[int]) -> int:
    """The exit code of all from those that are not 0; negative: killed by that signal.

    When one fails the others are asked to end, or lose the connection: their codes say less.
    """
    found = set(codes)
    for telling in (EXIT_USER_ERROR, EXIT_TRY_AGAIN):
        if telling in found:
            return telling
    return EXIT_PREEMPTED if found <= {EXIT_PREEMPTED, -SIGTERM} else 1
