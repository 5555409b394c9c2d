"""Units in this process, one after another."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from ..execute import Context, execute
from ..units import Unit
from .base import Listener, Starter


class InlineEngine:
    """Runs units in this process; for debugging, tests and machines without Ray."""

    def __init__(self, context: Context):
        self.context = context
        self.slots = 1
        self.starting: Starter | None = None

    def describe(self) -> str:
        return f"this process ({self.context.threads} thread{'s' if self.context.threads > 1 else ''}, {self.context.device})"

    def run(self, stage: str, units: Sequence[Unit], listener: Listener) -> None:
        import torch

        torch.set_num_threads(self.context.threads)
        for unit in units:
            if self.starting is not None:
                self.starting(unit, socket.gethostname())
            listener(execute(unit, self.context))

    def close(self) -> None:
        pass
