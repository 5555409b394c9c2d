"""The queue of a run as a Ray actor.

Nothing can begin before its process is there. So it imports neither torch nor what units are made
of: that took longer than Ray's own start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from ..queue import QueuedUnit, UnitQueue


class QueueServer:
    """Holds the queue of the units at work; the Ray actor that workers pull from, one for all of a
    run.

    Its methods are coroutines, so that workers can wait for a unit to become ready.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()

    async def load(self, units: Sequence[QueuedUnit], retries: int, at_once: int | None, devices: bool) -> None:
        """Puts a new queue in the place of the last one; arguments as those of `UnitQueue`."""
        self._queue = UnitQueue(units, retries, at_once, devices)

    async def begin(self, worker: int) -> list[int]:
        given_up = self._queue.begin(worker)
        await self._tell()
        return given_up

    async def take(
        self, worker: int, made: Sequence[tuple[int, bool]], device: bool = True, wait: float = 0.0
    ) -> list[int] | None:
        """Settles what `worker` has made, and returns its next units; None where all are settled.

        **Arguments:** `made`: units, and whether each failed. `wait`: seconds to wait for a unit
        that is ready.
        """
        queue = self._queue  # while we wait, another may take its place
        for place, failed in made:
            queue.settle(worker, place, failed)
        if made:
            await self._tell()
        deadline = time.monotonic() + wait
        while queue is self._queue and not queue.over:
            taken = queue.take(worker, device)
            left = deadline - time.monotonic()
            if taken or left <= 0:
                return taken
            try:
                async with asyncio.timeout(left), self._changed:
                    await self._changed.wait()
            except TimeoutError:
                pass
        return None

    async def fault(self, worker: int) -> bool:
        return self._queue.fault(worker)

    async def put_back(self, worker: int, place: int) -> bool:
        again = self._queue.put_back(worker, place)
        await self._tell()
        return again

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
