"""Trainings of a bench, some at once: each in a process of its own."""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Done = TypeVar("Done")


def work(
    do: Callable[[Job], Done], jobs: Sequence[Job], processes: int
) -> Iterator[tuple[Job, Done]]:
    """Does jobs, in their order, and tells what came of each.

    Args:
        do: what is done; with several processes it, the jobs and what comes of them are pickled.
        jobs: the jobs.
        processes: how many at once; the caller's own if it is one.
    """
    if processes == 1 or len(jobs) == 1:
        yield from ((job, do(job)) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    with ProcessPoolExecutor(processes, context, _logging) as pool:
        running = [pool.submit(do, job) for job in jobs]
        try:
            for job, future in zip(jobs, running, strict=True):
                yield job, future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # those that have not begun
            raise


def _logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
