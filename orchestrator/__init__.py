"""Distributed experiments in machine unlearning: recipes, planning, store, Ray, MLflow, reports and
the command line."""

from __future__ import annotations

__version__ = "0.1.0"
