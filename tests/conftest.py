"""Shared fixtures. Nothing here writes outside temporary folders or leaves a process behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one number of threads, so that bits and margins repeat


@pytest.fixture(scope="session")
def unlearn_data() -> Path:
    """The folder of real images; tests that want it skip, and say so, without it."""
    folder = os.environ.get("UNLEARN_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("UNLEARN_DATA does not name a folder of real images")
    return Path(folder)
