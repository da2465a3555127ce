"""Runs the jobs of a bench, several at a time in separate processes."""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")


def run_jobs(
    run: Callable[[JobT], ResultT], jobs: Sequence[JobT], processes: int
) -> Iterator[tuple[JobT, ResultT]]:
    """Run jobs, and yield each job with its result, in order.

    Args:
        run: function that runs a job. With several processes it must be picklable, and so must the
            jobs and the results.
        jobs: the jobs.
        processes: number of processes; with 1 the jobs run in the caller's process.
    """
    if processes == 1 or len(jobs) == 1:
        yield from ((job, run(job)) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    with ProcessPoolExecutor(processes, context, _start_logging) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        try:
            for job, future in zip(jobs, futures, strict=True):
                yield job, future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # cancels the jobs that have not started
            raise


def _start_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
