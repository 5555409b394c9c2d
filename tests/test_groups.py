"""Tests that share a Ray, a server or a browser run in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = "from tests.conftest import pytest_collection_modifyitems, pytest_xdist_make_scheduler\n"
INI = "[pytest]\nmarkers =\n  ray: uses Ray\n  medium: takes seconds\n"
TESTS = """
import os, time
from pathlib import Path
import pytest

@pytest.mark.ray
@pytest.mark.parametrize("n", range(4))
def test_of_the_group(n):
    time.sleep(0.05)
    Path(f"group-{os.getpid()}").touch()

def test_alone():
    time.sleep(0.05)
    Path(f"alone-{os.getpid()}").touch()
"""


@pytest.mark.medium
def test_a_group_stays_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text(INI)
    for i in range(6):
        (tmp_path / f"test_{i}.py").write_text(TESTS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    group, alone = ({path.name.split("-")[1] for path in tmp_path.glob(f"{kind}-*")} for kind in ("group", "alone"))
    assert len(group) == 1
    assert len(group | alone) == 2, "only one process had work, so nothing could have been split"
