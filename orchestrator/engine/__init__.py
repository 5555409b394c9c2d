"""Executors. Both run the same `execute`; the inline one needs no Ray and serves debugging and fast tests."""

from __future__ import annotations

from .base import Engine, Listener
from .inline import InlineEngine

__all__ = ["Engine", "InlineEngine", "Listener"]
