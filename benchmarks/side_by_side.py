"""Measurements beside one another, each on processor cores that no other one uses."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from multiprocessing.queues import Queue
from typing import Any, TypeVar

CORES = 2  # of each measurement: a server's and its clients'

Job = TypeVar("Job")
Result = TypeVar("Result")


def run(measure: Callable[[Job], Result], jobs: Sequence[Job], *, parallel: int) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, as they end, `parallel` at a time: in processes that keep to CORES cores each, as does
    all that they start. 1: one after the other, here and on all cores. Raises SystemExit if there are too few cores.
    """
    if parallel == 1:
        yield from ((job, measure(job)) for job in jobs)
        return
    available = sorted(os.sched_getaffinity(0))
    if parallel * CORES > len(available):
        raise SystemExit(
            f"--parallel={parallel} needs {parallel * CORES} cores, {CORES} each, and {len(available)} are there; "
            f"give at most {len(available) // CORES}"
        )
    context = get_context("spawn")
    shares: Queue[Any] = context.Queue()
    for number in range(parallel):
        shares.put(available[number * CORES : (number + 1) * CORES])
    with ProcessPoolExecutor(parallel, mp_context=context, initializer=_keep_to_cores, initargs=(shares,)) as processes:
        futures = {processes.submit(measure, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _keep_to_cores(shares: "Queue[Any]") -> None:
    os.sched_setaffinity(0, shares.get())
