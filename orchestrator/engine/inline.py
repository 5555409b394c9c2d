"""Units in this process, one after another."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ..plan.units import Unit
from ..work.context import Context
from ..work.execute import POLL_SECONDS, Held, execute
from .base import Ledger, Listener, queued
from .queue import UnitQueue

WORKER = 0


class InlineEngine:
    """Runs units in this process; for debugging, tests and machines without Ray."""

    def __init__(self, context: Context):
        self.context = context

    @property
    def slots(self) -> int:
        return 1

    def describe(self) -> str:
        return f"this process ({self.context.threads} thread{'s' if self.context.threads > 1 else ''}, {self.context.device})"

    def run(self, units: Sequence[Unit], listener: Listener) -> None:
        torch.set_num_threads(self.context.threads)
        ledger, queue = Ledger(units, listener), UnitQueue(queued(units))
        while not queue.over:
            for place in queue.take(WORKER):
                listener.begun(units[place], self.context.where)
                try:
                    outcome = execute(units[place], self.context, wait=False)
                except Held:  # by another experiment that shares the store
                    if queue.put_back(WORKER, place):
                        time.sleep(POLL_SECONDS)
                else:
                    queue.settle(WORKER, place, outcome.failed)
                    ledger.settle(outcome)

    def close(self) -> None:
        pass
