"""Units on Ray. Only this package and `engine.attacker` import Ray."""

from __future__ import annotations

from ...base.environment import prepare_environment

prepare_environment()  # before any module here imports Ray
