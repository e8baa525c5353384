"""Parallel: a function over jobs, in several processes.

In: a function and jobs, which can be sent to a process. Out: what it returns, in the order in which jobs end.
Knows nothing of what is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def results_of(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], n_jobs: int | None) -> Iterator[Any]:
    """Yield what a function returns for the arguments of each job, as the jobs end.

    A job keeps to one thread, also where joblib starts no process for it: matrices of one head are small, and threads that
    wait for each other over them took twice to three times the processor's time.

    Args:
        function: of the arguments of a job.
        jobs: arguments.
        n_jobs: processes; None for one a core.
    """
    from joblib import Parallel, delayed, parallel_config

    workers = min(n_jobs or os.cpu_count() or 1, max(1, len(jobs)))
    with parallel_config(backend="loky", n_jobs=workers, inner_max_num_threads=1):
        parallel = Parallel(return_as="generator_unordered")
    yield from parallel(delayed(_on_one_thread)(function, job) for job in jobs)


def _on_one_thread(function: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    """Do a job, whatever number of threads the libraries that are loaded would take."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return function(*job)
