"""What an audit computes on a thread of its own while the next attack is fitted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
AHEAD = 2  # jobs that wait: each holds the scores of an attack


class Aside:
    """Runs jobs one after the other, in the order in which they were begun, on one thread.

    NumPy lets other threads run while it sorts and adds, so one core more is at work. Leaving the
    context waits for all jobs, and raises what the first one that failed raised.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "aside")
        self._begun: deque[Future[Any]] = deque()

    def begin(self, job: Callable[..., T], *given: Any) -> Future[T]:
        """Queues `job(*given)`; waits first while more than `AHEAD` are unfinished."""
        while len(self._begun) > AHEAD:
            self._begun.popleft().result()
        future = self._pool.submit(job, *given)
        self._begun.append(future)
        return future

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._begun:
                future.result()
