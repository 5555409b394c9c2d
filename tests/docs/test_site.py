"""The documentation site is built without a warning, with the pages that programs write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .places import ROOT


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "orchestrator audit" in (tmp_path / "reference" / "commands" / "index.html").read_text()
    assert "gamma" in (tmp_path / "reference" / "unlearn" / "index.html").read_text()
