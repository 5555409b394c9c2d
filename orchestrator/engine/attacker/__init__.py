"""The XGBoost attacker on Ray, for tables larger than one process."""

from __future__ import annotations

from ...base.environment import prepare_environment

prepare_environment()  # before any module here imports Ray
