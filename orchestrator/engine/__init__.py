"""Where units run. Every engine runs the same `execute`; the inline one needs no Ray, for debugging
and fast tests.
"""

from __future__ import annotations

from .base import Engine, Listener, SettingReport, Told
from .inline import InlineEngine

__all__ = ["Engine", "InlineEngine", "Listener", "SettingReport", "Told"]
