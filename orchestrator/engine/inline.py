"""Units in this process, one after another."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..plan.units import Unit
from ..work.context import Context
from ..work.execute import execute_each
from .base import Listener, Starter


class InlineEngine:
    """Runs units in this process; for debugging, tests and machines without Ray."""

    def __init__(self, context: Context):
        self.context = context
        self.starting: Starter | None = None

    @property
    def slots(self) -> int:
        return 1

    def describe(self) -> str:
        return f"this process ({self.context.threads} thread{'s' if self.context.threads > 1 else ''}, {self.context.device})"

    def run(self, stage: str, units: Sequence[Unit], listener: Listener) -> None:
        torch.set_num_threads(self.context.threads)
        for outcome in execute_each(units, self.context, self._say):
            listener(outcome)

    def _say(self, unit: Unit) -> None:
        if self.starting is not None:
            self.starting(unit, self.context.where)

    def close(self) -> None:
        pass
