"""What an audit computes on a thread of its own while the next attack is fitted."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
AHEAD = 1  # jobs that wait: each holds the scores of an attack


class Aside:
    """Runs jobs one after the other, in the order in which they were begun, on one thread.

    NumPy lets other threads run while it sorts and adds, so one core more is at work. Leaving the
    context waits for all jobs, and raises what the first one that failed raised. After an error
    beside them it waits for none, and what has not begun is dropped.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._begun: deque[Future[Any]] = deque()
        # A daemon: nobody waits for it where the user interrupts.
        threading.Thread(target=self._run, daemon=True, name="aside").start()

    def _run(self) -> None:
        while (given := self._jobs.get()) is not None:
            future, job = given
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)

    def begin(self, job: Callable[[], T]) -> Future[T]:
        """Queues `job`; waits first while more than `AHEAD` wait beside the one at work."""
        while len(self._begun) > AHEAD:
            self._begun.popleft().result()
        future: Future[T] = Future()
        self._begun.append(future)
        self._jobs.put((future, job))
        return future

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            for future in self._begun:
                if kind is None:
                    future.result()
                else:
                    future.cancel()
        finally:
            self._jobs.put(None)
